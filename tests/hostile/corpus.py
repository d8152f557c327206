"""Layers that try to get out, made systematically: every way out times every spelling of the way.

``outside`` is a directory with a file ``canary``, a directory ``nest`` with ``egg`` in it, and a symlink ``way``.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from functools import cache

from tests.support import layers, sparse
from tests.support.layers import (
    Member,
    block_device,
    character_device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    symlink,
    tar,
    whiteout,
)
from tests.support.sparse import sealed

Layers = list[bytes]


@cache
def corpus(outside: str) -> dict[str, Layers]:
    """By a name that tells the attack; each is a whole image, base first."""
    cases: dict[str, Layers] = {}
    for part in (_names, _through_symlinks, _hard_links, _pax, _swaps, _whiteouts, _odd_names, _metadata, _numbers):
        for name, case in part(outside):
            assert name not in cases
            cases[name] = case
    return cases


def spellings(outside: str) -> dict[str, str]:
    return {
        "absolute": outside,
        "climbing": "../" * 40 + outside.lstrip("/"),
        "climbing from below": "a/b/" + "../" * 40 + outside.lstrip("/"),
        "doubled": "//" + outside.replace("/", "//./"),
        "by proc": "/proc/self/root" + outside,
        "by descriptors": "/proc/self/fd/../root" + outside,
        "one level": "..",
        "three levels": "../../..",
    }


_WRITES: dict[str, Callable[[str], list[Member]]] = {
    "a file": lambda way: [file(f"{way}/new", b"x")],
    "a file over one": lambda way: [file(f"{way}/canary", b"overwritten")],
    "a directory": lambda way: [directory(f"{way}/new", 0o777)],
    "a directory's mode": lambda way: [directory(f"{way}/nest", 0o777, uid=1), directory(way, 0o777, uid=1)],
    "a symlink": lambda way: [symlink(f"{way}/canary", "/nowhere")],
    "a fifo": lambda way: [fifo(f"{way}/canary")],
    "a device": lambda way: [character_device(f"{way}/canary", 1, 3), block_device(f"{way}/new", 7, 0)],
    "a hard link's name": lambda way: [file("f", b"x"), hardlink(f"{way}/canary", "f"), hardlink(f"{way}/new", "f")],
    "a whiteout": lambda way: [whiteout(f"{way}/canary"), whiteout(f"{way}/nest")],
    "an opaque mark": lambda way: [opaque(f"{way}/nest"), opaque(way)],
    "a sparse file": lambda way: [layers.sparse_file(f"{way}/canary", "1.0", 10_000, [(0, 5)], b"xxxxx")],
}


def _names(outside: str) -> Iterator[tuple[str, Layers]]:
    for spelling, way in spellings(outside).items():
        for write, members in _WRITES.items():
            yield f"name, {spelling}: {write}", [tar(members(way))]


def _through_symlinks(outside: str) -> Iterator[tuple[str, Layers]]:
    for spelling, way in spellings(outside).items():
        for write, members in _WRITES.items():
            yield f"symlink, {spelling}: {write}", [tar([symlink("s", way), *members("s")])]
            yield f"lower symlink, {spelling}: {write}", [tar([symlink("s", way)]), tar(members("s"))]
    yield "symlink that the tar ends with a slash", [tar([symlink("s", outside), directory("s/"), file("s/new")])]
    yield "two symlinks", [tar([symlink("a", "b"), symlink("b", outside), file("a/canary", b"x")])]
    yield "two symlinks of two layers", [tar([symlink("a", "b")]), tar([symlink("b", outside)]), tar([file("a/new")])]
    yield (
        "symlink below a symlink",
        [tar([directory("d"), symlink("s", "d"), symlink("s/t", outside), file("s/t/new")])],
    )
    yield "symlink to the root's parent", [tar([symlink("s", "/.."), file("s/new"), file("s/../../new2")])]
    yield "symlinks in a circle", [tar([symlink("a", "b"), symlink("b", "a"), file("a/f")])]
    yield "lower symlinks in a circle", [tar([symlink("a", "b"), symlink("b", "a")]), tar([file("a/f"), file("b/f")])]
    yield "symlink to itself", [tar([symlink("a", "a"), file("a/f")])]
    chain = [symlink(f"l{number}", f"l{number + 1}") for number in range(50)]
    yield "a chain of fifty symlinks", [tar([*chain, symlink("l50", outside), file("l0/new")])]
    bomb = [symlink(f"l{number}", f"l{number + 1}/l{number + 1}") for number in range(30)]
    yield "symlinks that double at every step", [tar([*bomb, directory("l30"), file("l0/f")])]
    yield "lower symlinks that double at every step", [tar([*bomb, directory("l30")]), tar([file("l0/f")])]


def _hard_links(outside: str) -> Iterator[tuple[str, Layers]]:
    for spelling, way in spellings(outside).items():
        target = f"{way}/canary"
        yield f"hard link, {spelling}", [tar([hardlink("h", target)])]
        yield f"hard link, {spelling}, written", [tar([hardlink("h", target), file("h", b"overwritten")])]
        through = [symlink("s", way), hardlink("h", "s/canary")]
        yield f"hard link through a symlink, {spelling}", [tar([*through, file("h", b"overwritten")])]
        yield f"hard link through a lower symlink, {spelling}", [tar(through[:1]), tar(through[1:]), tar([file("h")])]
        yield f"hard link to a symlink, {spelling}", [tar([symlink("s", target), hardlink("h", "s"), file("h", b"x")])]
    yield "hard link to itself", [tar([hardlink("h", "h")])]
    yield "hard links in a circle", [tar([hardlink("a", "b"), hardlink("b", "a")])]
    yield "hard link to a directory", [tar([directory("d"), hardlink("h", "d"), file("h/f")])]
    yield "hard link to the root", [tar([hardlink("h", "/")])]
    yield "hard link to nothing", [tar([hardlink("h", "")])]
    yield "hard link to a whiteout", [tar([file("a")]), tar([whiteout("a"), hardlink("h", ".wh.a")])]
    yield "hard link to a lower whiteout", [tar([file("a")]), tar([whiteout("a")]), tar([hardlink("h", "a")])]
    yield "hard link as a parent", [tar([file("f"), hardlink("h", "f"), file("h/new")])]


def _pax(outside: str) -> Iterator[tuple[str, Layers]]:
    for spelling, way in spellings(outside).items():
        yield f"pax path, {spelling}", [tar([file("f", b"x", pax={"path": f"{way}/canary"})])]
        yield (
            f"pax linkpath, {spelling}",
            [tar([hardlink("h", "f", pax={"linkpath": f"{way}/canary"}), file("h", b"x")])],
        )
        name = f"{way}/canary"
        records = sparse.pax([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", name)])
        yield f"sparse name, {spelling}", [records + tar([file("f", b"1\n0\n5\n".ljust(512, b"\0") + b"xxxxx")])]
    yield "pax path with a NUL", [tar([file("f", pax={"path": "f\0/../../x"})])]
    yield "pax path of nothing but dots", [tar([file("f", pax={"path": "./.."})])]
    yield "pax type is not to be had", [tar([file("f", b"x", pax={"type": "5", "typeflag": "2", "linkname": outside})])]
    yield "pax size that lies", [tar([file("f", b"x", pax={"size": "99999999999"}), file("g")])]
    yield "pax size below zero", [tar([file("f", b"x", pax={"size": "-512"}), file("g")])]
    yield "global pax path", [_global([("path", f"{outside}/canary")]) + tar([file("f", b"x")])]
    yield "GNU long name that climbs", [tar([file("../" * 60 + outside[1:] + "/canary", b"x")], tarfile.GNU_FORMAT)]
    yield "GNU long link that climbs", [tar([hardlink("h", "../" * 60 + outside[1:] + "/canary")], tarfile.GNU_FORMAT)]
    yield (
        "record longer than its header",
        [sparse.pax([("path", "x" * 300)])[:700].ljust(1024, b"9") + tar([file("f")])],
    )


def _global(records: list[tuple[str, str]]) -> bytes:
    header = bytearray(sparse.pax(records))
    header[156:157] = b"g"
    return sealed(header[:512]) + bytes(header[512:])


def _swaps(outside: str) -> Iterator[tuple[str, Layers]]:
    inside, link = [directory("d"), file("d/canary", b"1")], symlink("d", outside)
    write = file("d/canary", b"overwritten")
    yield "directory, then symlink, then through it", [tar([*inside, link, write])]
    yield "file, then symlink, then directory, then in it", [tar([file("d"), link, directory("d"), write])]
    yield "symlink, then file, then below it", [tar([link, file("d"), write])]
    yield "symlink of a layer between", [tar(inside), tar([link]), tar([write])]
    yield "symlink after a whiteout", [tar(inside), tar([whiteout("d"), link]), tar([write, whiteout("d/nest")])]
    yield "whiteout after a symlink", [tar(inside), tar([link, whiteout("d")]), tar([write])]
    yield "opaque through a symlink of its layer", [tar(inside), tar([link, opaque("d"), write])]
    yield "opaque through a lower symlink", [tar([link]), tar([opaque("d"), opaque("d/nest"), write])]
    yield "symlink and directory in turns", [tar([entry for _ in range(30) for entry in (link, write, *inside)])]
    yield "directory renamed by a hard link", [tar([*inside, hardlink("e", "d"), link, file("e/canary", b"x")])]
    yield "parent swapped two levels up", [tar([file("a/b/c", b"1"), symlink("a", outside), file("a/nest/egg", b"x")])]
    yield (
        "lower parent swapped",
        [tar([file("a/nest/x", b"1")]), tar([symlink("a", outside)]), tar([file("a/nest/egg")])],
    )
    yield (
        "symlink under its hard link's name",
        [tar([symlink("s", outside), hardlink("h", "s"), file("h/canary", b"x")])],
    )
    yield (
        "lower symlink under a hard link's name",
        [tar([symlink("s", outside)]), tar([hardlink("h", "s")]), tar([file("h/new")])],
    )
    yield "fifo, then file", [tar([fifo("p"), file("p", b"x")])]
    yield "lower fifo, then file and through it", [tar([fifo("p"), fifo("q")]), tar([file("p", b"x"), file("q/f")])]
    yield "device, then file", [tar([block_device("b", 7, 0), file("b", b"overwritten")])]
    yield (
        "lower device, then hard link, then file",
        [
            tar([block_device("b", 7, 0), character_device("c", 1, 1)]),
            tar([hardlink("h", "b"), hardlink("i", "c")]),
            tar([file("h", b"x"), file("i/f", b"x")]),
        ],
    )
    for kind, swap in {"file": file("s/t"), "directory": directory("s/t"), "whiteout": whiteout("s/t")}.items():
        lower = [symlink("s", "u"), directory("u"), symlink("u/t", outside)]
        yield f"{kind} in place of a symlink behind a lower symlink", [tar(lower), tar([swap, file("u/t/new", b"x")])]


def _whiteouts(outside: str) -> Iterator[tuple[str, Layers]]:
    lower = tar([directory("d"), file("d/f"), symlink("s", outside)])
    for name in (
        ".wh.",
        ".wh..",
        ".wh...",
        "d/.wh.",
        "d/.wh..",
        "d/.wh...",
        ".wh..wh.",
        ".wh..wh...",
        "s/.wh...",
        "d/../.wh...",
    ):
        yield f"whiteout named {name}", [lower, tar([Member(name)])]
    for name in (".wh..wh..opq/f", ".wh.d/f", "d/.wh.x/../../../f", ".wh.s/canary", "/.wh./canary", "s/nest/.wh.egg"):
        yield f"whiteout as a directory, {name}", [lower, tar([Member(name, content=b"x"), directory(name)])]
    yield "whiteout of a name with a newline", [lower, tar([Member(".wh.a\nb"), Member(".wh.\x1b")])]
    yield "whiteout that is a symlink", [lower, tar([symlink(".wh.d", outside), file(".wh.d/new")])]
    yield "whiteout that is a device", [lower, tar([character_device(".wh.d", 0, 0)])]
    yield "opaque mark that is a directory", [lower, tar([directory("d/.wh..wh..opq"), file("d/.wh..wh..opq/f")])]
    yield "overlayfs' whiteout as a device", [lower, tar([character_device("d", 0, 0)])]
    yield "overlayfs' whiteout by a hard link", [lower, tar([character_device("x", 0, 0), hardlink("d", "x")])]
    yield "a thousand whiteouts through a symlink", [lower, tar([whiteout(f"s/{number}") for number in range(1000)])]


def _odd_names(outside: str) -> Iterator[tuple[str, Layers]]:
    for name in ("", ".", "..", "/", "//", "./", "../", "./..", "a/..", "a/../..", "/.", "...", " ", "a//../b"):
        for kind, make in {"file": file, "directory": directory, "fifo": fifo}.items():
            yield f"{kind} named {name!r}", [tar([make(name)])]
    for name in (
        "../tar-split.gz",
        "../link",
        "../lower",
        "../../l/x",
        "../diff/x",
        "../work/x",
        "../merged",
        "../empty/x",
    ):
        yield (
            f"our own file {name}",
            [tar([directory("d")]), tar([file(name, b"forged"), file("d/" + name, b"forged")])],
        )
    for name in ("moving", "replaced", "replaced/0", "tar-split.gz", "diff", "link", "lower"):
        yield (
            f"our own name {name} inside",
            [tar([file(name), file("a")]), tar([directory("a"), file("a", b"x"), symlink(name, "a")])],
        )
    for name in (
        "../../../layers.json",
        "../../../../overlay-layers/layers.json",
        "../../../../overlay-images/images.json",
    ):
        yield f"the store's record {name}", [tar([file(name, b"[]"), symlink("s", name), file("s", b"[]")])]
    yield "names with controls", [tar([file("a\nb\r\x1b]0;x\x07"), directory("\x7f"), symlink("\t", "\n")])]
    yield "a name that is no UTF-8", [tar([file("\udcff\udcfe/\udc80", b"x")], tarfile.GNU_FORMAT)]
    yield "a name of 256 bytes", [tar([file("n" * 256)])]
    yield "a path of 5,000 bytes", [tar([file("d/" * 2500 + "f")])]
    yield "a tree 300 deep", [tar([file("d/" * 300 + "f")])]
    yield (
        "a tree 300 deep of two layers",
        [tar([file("d/" * 200 + "f")]), tar([symlink("s", "d/" * 200), file("s/" + "e/" * 100 + "f")])],
    )
    yield "a link of 5,000 bytes", [tar([symlink("s", "t/" * 2500)])]
    yield "a link of nothing", [tar([symlink("s", "")])]


def _metadata(outside: str) -> Iterator[tuple[str, Layers]]:
    marks = (
        "overlay.opaque",
        "overlay.redirect",
        "overlay.metacopy",
        "overlay.origin",
        "overlay.whiteout",
        "overlay.nlink",
    )
    for space in ("trusted", "user"):
        for mark in marks:
            xattr = {f"SCHILY.xattr.{space}.{mark}": "y" if "opaque" in mark else outside}
            lower = tar([directory("d"), file("d/f", b"1"), file("g", b"1")])
            yield f"forged {space}.{mark}", [lower, tar([directory("d", pax=xattr), file("g", pax=xattr)])]
    for name in (
        "security.selinux",
        "system.posix_acl_access",
        "security.ima",
        "trusted.x",
        "user.",
        "nonsense",
        "user.\udcff",
        ".",
    ):
        yield f"xattr {name!r}", [sparse.pax([(f"SCHILY.xattr.{name}", "x")]) + tar([file("f")])]
    yield (
        "xattrs without end",
        [tar([file("f", pax={f"SCHILY.xattr.user.{number}": "x" * 100 for number in range(500)})])],
    )
    yield "a big xattr", [tar([file("f", pax={"SCHILY.xattr.user.big": "x" * 100_000})])]
    yield "a capability that is none", [tar([file("f", pax={"SCHILY.xattr.security.capability": "nonsense"})])]
    yield "a set-id root shell by a hard link", [tar([file("sh", b"x", mode=0o6777)]), tar([hardlink("h", "sh")])]
    yield "the root's own metadata", [tar([directory("./", 0o7777, uid=1000, gid=1000), directory("/", 0o000)])]
    yield "a root closed to all", [tar([directory("./", 0), file("f")]), tar([file("g")])]


def _numbers(outside: str) -> Iterator[tuple[str, Layers]]:
    content = tar([file("f", b"x" * 600), file("g")])
    fields = {"mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12)}
    values = {
        "below zero": lambda size: b"\xff" * size,
        "huge": lambda size: b"\x80" + b"\x7f" * (size - 1),
        "all ones": lambda size: b"\xbf" + b"\xff" * (size - 1),
        "no number": lambda size: b"-0x1_0".ljust(size, b"\0"),
        "the most in octal": lambda size: b"7" * (size - 1) + b"\0",
    }
    for field, (place, size) in fields.items():
        for what, value in values.items():
            header = bytearray(content[:512])
            header[place : place + size] = value(size)
            yield f"{field} {what}", [sealed(header) + content[512:]]
    for kind in (b"D", b"M", b"N", b"V", b"A", b"X", b"\x01", b"\xff"):
        header = bytearray(content[:512])
        header[156:157] = kind
        yield f"type {kind!r}", [sealed(header) + content[512:]]
    for form in sparse.FORMS:
        for what, (size_bytes, extents, stored) in {
            "overlaps": (1000, [(0, 10), (5, 10)], 20),
            "goes back": (1000, [(500, 10), (0, 10)], 20),
            "ends behind the file": (10, [(0, 20)], 20),
            "stores less": (1000, [(0, 500)], 20),
            "begins before the file": (1000, [(-20, 20)], 20),
            "is a hole of a petabyte": (1 << 32, [(1 << 32, 0)], 0),
        }.items():
            yield (
                f"sparse form {form} {what}",
                [sparse.member(form, "f", size_bytes, extents, b"s" * stored) + tar([file("g")])],
            )
    yield "a device beyond Linux", [tar([character_device("d", 4096, 1 << 20)])]
    yield "a tar that is cut off", [content[:900]]
    yield "a tar that is noise", [bytes(range(256)) * 8]
    yield "a tar of nothing but headers", [content[:512] * 3]
    yield "a lone block of zeros", [content[:1536] + bytes(512) + content]
