"""What a root file system holds, path by path in a fixed order: of stacked layers, or of a plain directory."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imagedist.errors import storage_error
from imagedist.overlay.view import Found, View

_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA, errno.ELOOP)
_NOT_OF_THE_IMAGE = ("trusted.overlay.", "user.overlay.", "security.selinux")
"""What overlayfs keeps in xattrs, and the label that a host gives by its own policy."""
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One path of a root file system, for comparing trees.

    Attributes:
        kind: ``file``, ``directory``, ``symlink``, ``fifo``, ``character device``, ``block device``, ``socket``.
        mode: permission bits with set-id and sticky; 0 for a symlink, which has none.
        size_bytes / sha256: of a regular file, else 0 and "".
        target: of a symlink, else "".
        owner: (uid, gid), or None when ownership is not compared.
        device: (major, minor) of a device.
        mtime_ns: None when times are not compared.
        xattrs: by name; without overlayfs' own and the host's security label.
        linked_to: the first path, in the order of a walk, of the file that this one is another hard link to.
    """

    kind: str
    mode: int
    size_bytes: int = 0
    sha256: str = ""
    target: str = ""
    owner: tuple[int, int] | None = None
    device: tuple[int, int] | None = None
    mtime_ns: int | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()
    linked_to: str = ""


class Root(Protocol):
    """A root file system to walk: ``view.View`` or ``Directory``."""

    def root(self) -> Found | None: ...
    def children(self, directory: Found) -> dict[str, Found]: ...


class Directory:
    """A plain directory: a mounted image, or what another tool unpacked. Whiteouts have no meaning here."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def root(self) -> Found:
        return Found(self._path.stat(), (self._path,))

    def children(self, directory: Found) -> dict[str, Found]:
        (above,) = directory.paths
        with os.scandir(above) as found:
            return {one.name: Found(one.stat(follow_symlinks=False), (above / one.name,)) for one in found}


def walk(root: Root) -> Iterator[tuple[str, Found]]:
    """Every path without a leading slash, the root itself first as ``""``; in each directory by name.

    Raises:
        StorageError: something cannot be read.
    """
    try:
        top = root.root()
        todo = [("", top)] if top is not None else []
        while todo:
            path, found = todo.pop()
            yield path, found
            if found.is_directory:
                prefix = f"{path}/" if path else ""
                children = sorted(root.children(found).items(), reverse=True)
                todo.extend((prefix + name, child) for name, child in children)
    except OSError as error:
        raise storage_error("read a root file system", error) from error


class Describer:
    """Describes what a walk finds, all but the content. Remembers a name of each file that has several."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], str] = {}

    def describe(self, path: str, found: Found) -> TreeEntry:
        """Call it in the order of the walk.

        Raises:
            StorageError: it cannot be read.
        """
        status, kind = found.stat, kind_of(found)
        linked_to = ""
        if status.st_nlink > 1 and kind != "directory":
            linked_to = self._first.setdefault((status.st_dev, status.st_ino), path)
        try:
            return TreeEntry(
                kind,
                0 if kind == "symlink" else stat.S_IMODE(status.st_mode),
                status.st_size if kind == "file" else 0,
                target=os.readlink(found.paths[0]) if kind == "symlink" else "",
                owner=(status.st_uid, status.st_gid),
                device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind.endswith("device") else None,
                mtime_ns=status.st_mtime_ns,
                xattrs=_xattrs(found.paths[0]),
                linked_to="" if linked_to == path else linked_to,
            )
        except OSError as error:
            raise storage_error("read a root file system", error) from error


def tree(layers: Sequence[Path], *, with_owner: bool = False) -> dict[str, TreeEntry]:
    """Every path of stacked layers with what any image says of it: kind, mode, content, target, perhaps owner.

    Args:
        layers: ``diff`` directories, base first; one plain directory (a mounted image) works too.

    Returns:
        By path from the root; the root itself is not in it.

    Raises:
        StorageError: something cannot be read.
    """
    return {path: _plain(found, with_owner) for path, found in walk(View(layers)) if path}


def open_file(found: Found) -> io.FileIO:
    """A regular file's content; whatever lies there by now, nothing is followed and nothing blocks.

    Raises:
        StorageError: it cannot be opened.
    """
    try:
        return io.FileIO(os.open(found.paths[0], _READ_FILE), "rb")
    except OSError as error:
        raise storage_error("read a file of a root file system", error) from error


def sha256_of(found: Found) -> str:
    """Of a regular file's content.

    Raises:
        StorageError: it cannot be read.
    """
    with open_file(found) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise storage_error("read a file of a root file system", error) from error


def kind_of(found: Found) -> str:
    return _KINDS[stat.S_IFMT(found.stat.st_mode)]


def _plain(found: Found, with_owner: bool) -> TreeEntry:
    status, kind = found.stat, kind_of(found)
    owner = (status.st_uid, status.st_gid) if with_owner else None
    mode = stat.S_IMODE(status.st_mode)
    if kind == "file":
        return TreeEntry(kind, mode, status.st_size, sha256_of(found), owner=owner)
    if kind == "symlink":
        return TreeEntry(kind, 0, target=os.readlink(found.paths[0]), owner=owner)
    return TreeEntry(kind, mode, owner=owner)


def _xattrs(path: Path) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        wanted = sorted(name for name in names if not name.startswith(_NOT_OF_THE_IMAGE))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in wanted)
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise
        return ()
