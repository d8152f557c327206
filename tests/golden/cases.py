"""One case per rule of the layer specification and per trap that layers of the field have set.

``podman`` and ``umoci`` say where these differ from us: a part of the error they refuse the image with, or
``differs: …`` and what of the tree. docs/layers.md lists the same, and a test holds the two together.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support import sparse
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

CAPABILITY = (b"\x01\0\0\x02\0\x04" + bytes(14)).decode()
LONG = "/".join(["a-directory-with-a-rather-long-name"] * 8) + "/file"
STICKS = [directory("d", 0o711, uid=3, gid=4, mtime=42)]


@dataclass(frozen=True)
class Case:
    name: str
    layers: Sequence[bytes | Sequence[Member]]
    podman: str = ""
    umoci: str = ""

    def tars(self) -> list[bytes]:
        return [one if isinstance(one, bytes) else tar(one) for one in self.layers]


def edited(content: bytes, *changes: tuple[int, bytes]) -> bytes:
    """A tar whose first header is changed at these places."""
    header = bytearray(content[:512])
    for place, value in changes:
        header[place : place + len(value)] = value
    return sealed(header) + content[512:]


def gnu(*members: Member) -> bytes:
    return tar(members, tarfile.GNU_FORMAT)


def base256(number: int, size: int) -> bytes:
    return (number & (1 << (8 * size)) - 1 | 1 << (8 * size - 1)).to_bytes(size, "big")


MERGED_USR = [
    directory("usr"),
    directory("usr/bin", 0o711, mtime=77),
    symlink("bin", "usr/bin"),
    file("usr/bin/old"),
    file("usr/bin/kept"),
]
DUPLICATES = "duplicates of file paths not supported"
BELOW_WHITEOUT = "no such file or directory"

WHITEOUTS = [
    Case("a whiteout before its entry", [[file("a", b"1"), file("b")], [whiteout("a"), file("a", b"22")]]),
    Case(
        "a whiteout after its entry",
        [[file("a", b"1"), file("b")], [file("a", b"22"), whiteout("a")]],
        podman="file exists",
    ),
    Case("a whiteout of a directory", [[*STICKS, directory("d/e"), file("d/e/f")], [whiteout("d")]]),
    Case(
        "a whiteout of what is not there",
        [[*STICKS], [whiteout("d/none"), whiteout("none")]],
        podman="differs: mode, owner, mtime",
    ),
    Case("a whiteout of a hard link's name", [[file("a", b"x"), hardlink("b", "a")], [whiteout("a")]]),
    Case("a whiteout of a symlink leaves its target", [[file("a", b"x"), symlink("s", "a")], [whiteout("s")]]),
    Case("a hard-linked whiteout", [[file("a"), file("b")], [file("c"), hardlink(".wh.a", "c")]]),
    Case(
        "a whiteout through a symlinked parent", [MERGED_USR, [whiteout("bin/old")]], podman="differs: kind, presence"
    ),
    Case(
        "delete and recreate a directory",
        [[*STICKS, file("d/old")], [whiteout("d"), directory("d", 0o700), file("d/new")]],
        podman="differs: presence",
    ),
    Case(
        "recreate, then delete a directory",
        [[*STICKS, file("d/old")], [directory("d", 0o700), file("d/new"), whiteout("d")]],
        umoci="differs: mtime",
        podman="file exists",
    ),
    Case(
        "delete, then recreate in the next layer",
        [[*STICKS, file("d/old")], [whiteout("d")], [directory("d"), file("d/new")]],
    ),
    Case("delete, then recreate as a file", [[*STICKS, file("d/old")], [whiteout("d")], [file("d", b"x")]]),
    Case(
        "an opaque directory before its entries",
        [
            [*STICKS, file("d/old"), directory("d/s"), file("d/s/f")],
            [directory("d", 0o750), opaque("d"), file("d/new")],
        ],
    ),
    Case(
        "an opaque directory after its entries",
        [
            [*STICKS, file("d/old"), directory("d/s"), file("d/s/f")],
            [directory("d", 0o750), file("d/new"), opaque("d")],
        ],
    ),
    Case(
        "an opaque directory next to siblings",
        [
            [*STICKS, file("d/old"), directory("e"), file("e/kept"), file("f")],
            [opaque("d"), file("d/new"), file("e/new")],
        ],
        podman="differs: mode, owner, mtime",
    ),
    Case(
        "an opaque directory and a whiteout in it",
        [[*STICKS, file("d/a"), file("d/b")], [opaque("d"), whiteout("d/a"), file("d/b", b"x")]],
        podman="differs: mode, owner, mtime",
    ),
    Case(
        "an opaque directory without entries",
        [[*STICKS, file("d/a"), directory("d/e")], [opaque("d")]],
        podman="differs: mode, owner, mtime",
    ),
    Case("an opaque root", [[*STICKS, file("a")], [opaque(""), file("b")]], podman="differs: presence"),
    Case("aufs' own bookkeeping", [[file("a")], [file(".wh..wh.plnk"), file("b")]]),
]
REPLACED = [
    Case("a file over a directory", [[*STICKS, file("d/f")], [file("d", b"x")]]),
    Case("a directory over a file", [[file("d", b"x")], [*STICKS, file("d/f")]]),
    Case("a symlink over a directory", [[*STICKS, file("d/f"), directory("e")], [symlink("d", "e")]]),
    Case(
        "a directory over a symlink",
        [[directory("e", mtime=5), file("e/f"), symlink("d", "e")], [*STICKS, file("d/g")]],
    ),
    Case("a file over a symlink leaves its target", [[file("t", b"1"), symlink("s", "t")], [file("s", b"22")]]),
    Case(
        "a fifo over a file and a file over a fifo", [[file("a"), fifo("b")], [fifo("a", mode=0o600), file("b", b"x")]]
    ),
    Case("a directory's new metadata", [[*STICKS, file("d/f")], [directory("d", 0o1777, uid=9, gid=8, mtime=43)]]),
    Case("two files of one name", [[file("a", b"1"), file("b"), file("a", b"22", mode=0o600)]], podman=DUPLICATES),
    Case(
        "two entries of one directory",
        [[directory("d", 0o700), file("d/f"), directory("d", 0o750, mtime=9)]],
        podman=DUPLICATES,
    ),
    Case(
        "a file, then a directory of one name",
        [[file("d", b"1"), directory("d", 0o750), file("d/f")]],
        podman=DUPLICATES,
    ),
    Case("a directory, then a file of one name", [[directory("d"), file("d/f"), file("d", b"1")]], podman=DUPLICATES),
    Case(
        "a symlink, then a file of one name",
        [[file("t", b"1"), symlink("s", "t"), file("s", b"22")]],
        podman=DUPLICATES,
    ),
]
PARENTS = [
    Case("a symlinked parent of the same layer", [[directory("t"), symlink("s", "t"), file("s/f", b"x")]]),
    Case(
        "a symlinked parent of a lower layer",
        [MERGED_USR, [file("bin/new", b"x"), file("bin/old", b"y")]],
        podman="differs: kind, presence, size",
    ),
    Case(
        "a symlinked parent that is absolute",
        [[directory("t"), symlink("s", "/t"), file("s/f")], [file("s/g")]],
        podman="differs: kind, presence",
    ),
    Case(
        "a symlinked parent that leads above the root",
        [[directory("t"), symlink("s", "../../t"), file("s/f")], [file("s/g")]],
        podman="differs: kind, presence",
    ),
    Case(
        "a symlinked parent that leads nowhere",
        [[symlink("s", "t/u")], [file("s/f", b"x")]],
        podman="differs: kind, presence",
    ),
    Case("missing parents", [[file("a/b/c", b"x")]]),
    Case(
        "missing parents that lower layers have",
        [[*STICKS, directory("d/e", 0o700, uid=5, mtime=6)], [file("d/e/f", b"x")]],
        podman="differs: mode, owner, mtime",
    ),
    Case("a parent that comes later", [[file("d/f"), directory("d", 0o700, mtime=42)]]),
    Case("a lower file in the place of a parent", [[file("d", b"x")], [file("d/f", b"y")]], umoci="not a directory"),
    Case(
        "a closed parent",
        [[directory("d", 0o000, mtime=42), file("d/f", mode=0o000)], [file("d/g")]],
        podman="differs: mode, mtime",
    ),
]
HARD_LINKS = [
    Case(
        "hard links",
        [
            [
                file("a", b"x", mode=0o4755, uid=7),
                hardlink("b", "a", mode=0o4755, uid=7),
                directory("d"),
                hardlink("d/c", "b", mode=0o4755, uid=7),
            ]
        ],
    ),
    Case(
        "a hard link that says other metadata",
        [[file("a", mode=0o4755, uid=7), hardlink("b", "a")]],
        podman="differs: mode, owner",
    ),
    Case("a hard link to a symlink", [[file("t"), symlink("s", "t", mtime=5), hardlink("h", "s")]]),
    Case(
        "a hard link to a device and to a fifo",
        [[character_device("a", 1, 3), hardlink("b", "a"), fifo("p"), hardlink("q", "p")]],
    ),
    Case(
        "a hard link to a lower file",
        [[file("a", b"x", mode=0o640, uid=7, mtime=5)], [hardlink("b", "a")]],
        podman="no such file or directory",
    ),
    Case(
        "a hard link to a lower file that the layer deletes",
        [[file("a", b"x")], [hardlink("b", "a"), whiteout("a")]],
        podman="no such file or directory",
    ),
    Case(
        "a hard link to a file that is replaced later",
        [[file("a", b"1")], [file("a", b"22"), hardlink("b", "a")], [file("a", b"333")]],
    ),
    Case("a hard link over a file", [[file("b", b"old")], [file("a", b"x"), hardlink("b", "a")]]),
    Case(
        "a hard link through a lower symlink",
        [[*MERGED_USR], [hardlink("h", "bin/old")]],
        podman="no such file or directory",
    ),
]
NAMES = [
    Case(
        "./ before names",
        [[directory("./d"), file("./d/f"), symlink("./s", "d")], [file("./d/g"), Member("./d/.wh.f")]],
        podman="differs: mtime",
    ),
    Case(
        "absolute names",
        [[directory("/d"), file("/d/f", b"x")], [file("//d//g"), Member("/d/.wh.f")]],
        podman="differs: mtime",
    ),
    Case("names that climb", [[file("../../etc/f", b"x"), directory("d"), file("d/../e/./g")]]),
    Case("names that are no UTF-8", [gnu(directory("d\udce9"), file("d\udce9/\udcff", b"x"), symlink("s", "d\udce9"))]),
    Case("names with a newline and other controls", [[directory("a\nb"), file("a\nb/\x1b[2J\x07", b"x")]]),
    Case("names of 255 bytes", [[file("n" * 255, b"x"), directory("d" * 255), file("d" * 255 + "/" + "ü" * 127)]]),
    Case("long names in pax headers", [[file(LONG, b"x"), symlink("s", LONG), hardlink("h", LONG)]]),
    Case("long names in GNU headers", [gnu(file(LONG, b"x"), symlink("s", LONG), hardlink("h", LONG))]),
    Case("long names in the ustar prefix", [tar([file("p" * 90 + "/" + "n" * 90, b"x")], tarfile.USTAR_FORMAT)]),
    Case(
        "a name that is an image's own whiteout prefix within", [[file("a.wh.b", b"x"), directory("d"), file("d/wh.f")]]
    ),
    Case(
        "the root directory itself",
        [[directory("./", 0o711, uid=3, gid=4, mtime=42), file("./f")]],
        podman="differs: mode, owner, mtime",
    ),
]
NUMBERS = [
    Case(
        "numbers in base 256",
        [
            edited(
                tar([file("f", b"x", uid=0)]),
                (108, base256(3_000_000, 8)),
                (116, base256(4_000_000, 8)),
                (124, base256(1, 12)),
                (136, base256(1_700_000_000, 12)),
            )
        ],
    ),
    Case(
        "a negative time in base 256", [edited(tar([file("f")]), (136, base256(-86_400, 12)))], podman="differs: mtime"
    ),
    Case("large owners in pax headers", [[file("f", uid=3_000_000_000, gid=2_500_000_000)]]),
    Case(
        "times to the nanosecond",
        [
            [
                file("f", pax={"mtime": "1700000000.123456789"}),
                symlink("s", "f", pax={"mtime": "1600000000.000000001"}),
                directory("d", pax={"mtime": "1500000000.999999999"}),
            ]
        ],
    ),
    Case(
        "times before 1970",
        [[file("f", pax={"mtime": "-1.5"}), directory("d", mtime=-1_000_000)]],
        podman="differs: mtime",
    ),
    Case("times beyond 2038", [[file("f", mtime=3_000_000_000), file("g", mtime=9_000_000_000)]]),
    Case("numbers between blanks", [edited(tar([file("f", b"x")]), (100, b"   644 \0"), (124, b"          1 "))]),
    Case("mode bits of the file's type", [edited(tar([file("f")]), (100, b"0100644\0"))]),
]
METADATA = [
    Case(
        "set-id and sticky bits",
        [
            [
                file("u", mode=0o4755, uid=1),
                file("g", b"x", mode=0o2755, gid=2),
                directory("t", 0o1777),
                directory("s", 0o3775, gid=9),
            ]
        ],
    ),
    Case("owners of symlinks", [[symlink("s", "t", uid=5, gid=6, mtime=7)]]),
    Case("file capabilities", [[file("f", b"x", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY})]]),
    Case(
        "file capabilities of a file with an owner",
        [[file("f", b"x", mode=0o4755, uid=7, pax={"SCHILY.xattr.security.capability": CAPABILITY})]],
    ),
    Case(
        "user xattrs",
        [[file("f", pax={"SCHILY.xattr.user.note": "a=b"}), directory("d", pax={"SCHILY.xattr.user.note": "c"})]],
    ),
    Case(
        "devices and fifos",
        [
            [
                character_device("null", 1, 3, mode=0o666, uid=4),
                block_device("loop", 7, 5, mode=0o660, gid=6, mtime=9),
                fifo("p", mode=0o622, mtime=8),
                character_device("high", 300, 70_000),
            ]
        ],
    ),
    Case(
        "a directory's time when files come later",
        [[directory("d", mtime=42)], [file("d/f")], [whiteout("d/f")]],
        podman="differs: mtime",
    ),
    Case(
        "a global pax header",
        [edited(sparse.pax([("comment", "x")]), (156, b"g")) + tar([file("f")])],
        umoci="unknown typeflag",
        podman="differs: presence",
    ),
    Case(
        "a header before ustar",
        [edited(gnu(file("d/", mode=0o755)), (156, b"\0"), (257, bytes(88))) + gnu(file("d/f"))],
    ),
]
_EXTENTS = [(4096, 700), (1 << 20, 5), (3_000_000, 0)]
SPARSE = [
    Case(
        f"a sparse file in GNU's form {form}",
        [sparse.member(form, "f", 3_000_000, _EXTENTS, b"x" * 705) + tar([file("after", b"y")])],
        podman="unhandled tar header type 83" if form == "old" else "",
        umoci="unknown typeflag" if form == "old" else "",
    )
    for form in sparse.FORMS
]
STACKS = [
    Case("an empty layer", [[file("a")], [], tar([file("b")])]),
    Case("a layer of no bytes", [[file("a")], b""]),
    Case("the same layer twice", [[*STICKS, file("d/f")], [whiteout("d/f")], [*STICKS, file("d/f")]]),
    Case("127 layers", [[directory("d", mtime=number), file(f"d/{number % 20}", b"x")] for number in range(127)]),
    Case("garbage after the end", [tar([file("a", b"x")]) + b"garbage" * 1000]),
    Case("an end without blocks of zeros", [tar([file("a", b"x" * 512)])[:1024]]),
]

CASES = [*WHITEOUTS, *REPLACED, *PARENTS, *HARD_LINKS, *NAMES, *NUMBERS, *METADATA, *SPARSE, *STACKS]
