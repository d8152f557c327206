"""The reference for unpacking: layers applied one after the other to a dict, by code that shares nothing with ours."""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

_XATTR = "SCHILY.xattr."


@dataclass(frozen=True, eq=False)
class Inode:
    """What a path is. Hard links share one object. ``mtime_ns`` is None where no layer says it."""

    kind: str
    mode: int
    content: bytes = b""
    target: str = ""
    owner: tuple[int, int] = (0, 0)
    device: tuple[int, int] | None = None
    mtime_ns: int | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()


class RefusedError(Exception):
    """The layer cannot be applied to this tree."""


Tree = dict[str, Inode]


def apply(tree: Tree, layer: bytes) -> Tree:
    """Returns the tree after one uncompressed layer: its whiteouts first, they mean lower layers only."""
    below, tree = tree, dict(tree)
    if not layer:
        return tree
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        members = archive.getmembers()
        for member in members:
            parent, _, name = _clean(member.name).rpartition("/")
            if name == ".wh..wh..opq":
                _clear(tree, resolve(tree, parent))
            elif name.startswith(".wh.") and not name.startswith(".wh..wh."):
                _remove(tree, _join(resolve(tree, parent), name.removeprefix(".wh.")))
        for member in members:
            if not _clean(member.name).rpartition("/")[2].startswith(".wh."):
                _add(tree, below, member, archive)
    return tree


def apply_all(layers: Iterable[bytes]) -> Tree:
    """The tree after all of them, base first."""
    tree: Tree = {}
    for layer in layers:
        tree = apply(tree, layer)
    return tree


def _add(tree: Tree, below: Tree, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    described = Inode(
        "",
        member.mode & 0o7777,
        owner=(member.uid, member.gid),
        mtime_ns=_nanoseconds(member),
        xattrs=_xattrs(member),
    )
    whole = _clean(member.name)
    if not whole:
        tree[""] = replace(described, kind="directory")
        return
    parent, _, name = whole.rpartition("/")
    parent = resolve(tree, parent)
    for depth in range(len(parent.split("/")) if parent else 0):
        above = "/".join(parent.split("/")[: depth + 1])
        if above not in tree or tree[above].kind != "directory":
            _remove(tree, above)
            tree[above] = Inode("directory", 0o755)
    path = _join(parent, name)
    if member.isdir():
        inode = replace(described, kind="directory")
        if path in tree and tree[path].kind == "directory":
            tree[path] = inode
            return
    elif member.islnk():
        parent, _, name = _clean(member.linkname).rpartition("/")
        target = _join(resolve(tree, parent), name)
        linked = tree.get(target) or below.get(target)  # a layer may move a lower file: link it and delete its name
        if linked is None or linked.kind == "directory":
            raise RefusedError(f"hard link to {target}")
        if target == path and target in tree:
            return
        inode = linked
    elif member.issym():
        inode = replace(described, kind="symlink", mode=0, target=member.linkname, xattrs=())
    elif member.isfifo():
        inode = replace(described, kind="fifo", xattrs=())
    elif member.ischr() or member.isblk():
        kind = "character device" if member.ischr() else "block device"
        inode = replace(described, kind=kind, device=(member.devmajor, member.devminor), xattrs=())
    else:
        stream = archive.extractfile(member)
        inode = replace(described, kind="file", content=stream.read() if stream else b"")
    _remove(tree, path)
    tree[path] = inode


def _clean(name: str) -> str:
    """Relative to the root, which ``..`` does not leave."""
    return posixpath.normpath("/" + name.lstrip("/")).lstrip("/")


def _nanoseconds(member: tarfile.TarInfo) -> int:
    return int(Decimal(member.pax_headers.get("mtime", member.mtime)) * 10**9)


def _xattrs(member: tarfile.TarInfo) -> tuple[tuple[str, bytes], ...]:
    """Those that a layer may set."""
    named = {
        key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in member.pax_headers.items()
        if key.startswith((f"{_XATTR}user.", f"{_XATTR}security.capability"))
    }
    return tuple(sorted((name, value) for name, value in named.items() if not name.startswith("user.overlay.")))


def resolve(tree: Tree, path: str) -> str:
    """Follows every symlink of the path inside the root."""
    done: list[str] = []
    todo, links = path.split("/")[::-1], 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = tree.get("/".join([*done, part]))
        if here is not None and here.kind == "symlink":
            links += 1
            if links > 40:
                raise RefusedError("symlink loop")
            done = [] if here.target.startswith("/") else done
            todo.extend(here.target.split("/")[::-1])
        else:
            done.append(part)
    return "/".join(done)


def _remove(tree: Tree, path: str) -> None:
    tree.pop(path, None)
    _clear(tree, path)


def _clear(tree: Tree, directory: str) -> None:
    prefix = f"{directory}/" if directory else ""
    for path in [path for path in tree if path and path.startswith(prefix)]:
        del tree[path]


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


class Summary(NamedTuple):
    """Everything a layer can say of a path; ``linked_to`` is the file's first path, in order, when that is another."""

    kind: str
    mode: int
    sha256: str
    target: str
    owner: tuple[int, int]
    device: tuple[int, int] | None
    mtime_ns: int | None
    xattrs: tuple[tuple[str, bytes], ...]
    linked_to: str


def summary(tree: Tree) -> dict[str, Summary]:
    """By path; the root itself only when a layer described it."""
    first: dict[int, str] = {}
    found: dict[str, Summary] = {}
    for path in sorted(tree, key=lambda path: path.split("/")):
        inode = tree[path]
        name = first.setdefault(id(inode), path) if inode.kind != "directory" else path
        found[path] = Summary(
            inode.kind,
            inode.mode,
            hashlib.sha256(inode.content).hexdigest() if inode.kind == "file" else "",
            inode.target,
            inode.owner,
            inode.device,
            inode.mtime_ns,
            inode.xattrs,
            "" if name == path else name,
        )
    return found
