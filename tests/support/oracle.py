"""The reference for unpacking: layers applied one after the other to a dict, by code that shares nothing with ours."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Inode:
    """What a path is. Hard links share one object."""

    kind: str
    mode: int
    content: bytes = b""
    target: str = ""
    owner: tuple[int, int] = (0, 0)


class RefusedError(Exception):
    """The layer cannot be applied to this tree."""


Tree = dict[str, Inode]


def apply(tree: Tree, layer: bytes) -> Tree:
    """Returns the tree after one uncompressed layer: its whiteouts first, they mean lower layers only."""
    tree = dict(tree)
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        members = archive.getmembers()
        for member in members:
            parent, _, name = member.name.rpartition("/")
            if name == ".wh..wh..opq":
                _clear(tree, resolve(tree, parent))
            elif name.startswith(".wh."):
                _remove(tree, _join(resolve(tree, parent), name.removeprefix(".wh.")))
        for member in members:
            if not member.name.rpartition("/")[2].startswith(".wh."):
                _add(tree, member, archive)
    return tree


def _add(tree: Tree, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    parent, _, name = member.name.removeprefix("./").rpartition("/")
    parent = resolve(tree, parent)
    for depth in range(len(parent.split("/")) if parent else 0):
        above = "/".join(parent.split("/")[: depth + 1])
        if above not in tree or tree[above].kind != "directory":
            _remove(tree, above)
            tree[above] = Inode("directory", 0o755)
    path = _join(parent, name)
    owner = (member.uid, member.gid)
    if member.isdir():
        if path in tree and tree[path].kind == "directory":
            tree[path] = replace(tree[path], mode=member.mode, owner=owner)
            return
        inode = Inode("directory", member.mode, owner=owner)
    elif member.islnk():
        parent, _, name = member.linkname.rpartition("/")
        target = _join(resolve(tree, parent), name)
        if target not in tree or tree[target].kind == "directory":
            raise RefusedError(f"hard link to {target}")
        inode = tree[target]
    elif member.issym():
        inode = Inode("symlink", 0, target=member.linkname, owner=owner)
    elif member.isfifo():
        inode = Inode("fifo", member.mode, owner=owner)
    else:
        stream = archive.extractfile(member)
        inode = Inode("file", member.mode, stream.read() if stream else b"", owner=owner)
    _remove(tree, path)
    tree[path] = inode


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
    for path in [path for path in tree if path.startswith(prefix)]:
        del tree[path]


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


Summary = dict[str, tuple[str, int, str, str]]


def summary(tree: Tree) -> Summary:
    """Path → kind, mode, SHA-256 of a file, target of a symlink."""
    return {
        path: (
            inode.kind,
            inode.mode,
            hashlib.sha256(inode.content).hexdigest() if inode.kind == "file" else "",
            inode.target,
        )
        for path, inode in tree.items()
    }
