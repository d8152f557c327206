"""What a stack of layer directories shows, by overlayfs' rules, without mounting it (kernel: filesystems/overlayfs)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import UnacceptableError

OPAQUE_MARKS = ("trusted.overlay.opaque", "user.overlay.opaque")
_MAX_LINKS = 40
_MAX_PARTS = 4096  # of one path with the targets of its symlinks


@dataclass(frozen=True, slots=True)
class Found:
    """A name of the merged view.

    Attributes:
        stat: of the uppermost layer that has it.
        paths: where it lies, uppermost first; several only for a directory that is merged of several layers.
    """

    stat: os.stat_result
    paths: tuple[Path, ...]

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.stat.st_mode)


class View:
    """The merged view of layer directories.

    Args:
        layers: their ``diff`` directories, base first. They must not change meanwhile.
    """

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = tuple(reversed(layers))

    def root(self) -> Found | None:
        """The root directory; overlayfs merges it of all layers, opaque or not. None: no layers."""
        return Found(self._layers[0].lstat(), self._layers) if self._layers else None

    def lookup(self, path: str) -> Found | None:
        """What is at a path from the root (``""``: the root), no symlink followed; None: nothing."""
        found = self.root()
        for name in path.split("/") if path else ():
            if found is None or not found.is_directory:
                return None
            found = child(found.paths, name)
        return found

    def children(self, directory: Found) -> dict[str, Found]:
        """What a directory of the view holds."""
        names: dict[str, None] = {}
        for path in directory.paths:
            names.update(dict.fromkeys(os.listdir(path)))
        found = ((name, child(directory.paths, name)) for name in names)
        return {name: one for name, one in found if one is not None}

    def resolve(self, path: str, followed: set[str] | None = None) -> str:
        """Follows every symlink of ``path`` inside the root; parts that are not there stay as they are.

        Args:
            followed: is given the paths of these symlinks.

        Raises:
            UnacceptableError: a symlink loop, or targets of absurd length.
        """
        todo, done, links = path.split("/")[::-1], list[str](), 0
        for _ in range(_MAX_PARTS):
            if not todo:
                return "/".join(done)
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            found = self.lookup("/".join((*done, part)))
            if found is None or not found.is_symlink:
                done.append(part)
                continue
            if followed is not None:
                followed.add("/".join((*done, part)))
            links += 1
            if links > _MAX_LINKS:
                raise UnacceptableError(f"unsafe layer: too many symlinks on the way to {path!r}")
            target = os.readlink(found.paths[0])
            if target.startswith("/"):
                done.clear()
            todo.extend(target.split("/")[::-1])
        raise UnacceptableError(f"unsafe layer: more than {_MAX_PARTS} parts on the way to {path[:100]!r}")


def prefixes(path: str) -> Iterator[str]:
    """``a``, ``a/b`` and ``a/b/c`` of ``a/b/c``; nothing of the root."""
    cut = path.find("/")
    while cut >= 0:
        yield path[:cut]
        cut = path.find("/", cut + 1)
    if path:
        yield path


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def child(parents: Sequence[Path], name: str) -> Found | None:
    """Looks a name up in ``Found.paths`` of a directory, uppermost layer first, until something hides what is below."""
    status: os.stat_result | None = None
    merged: list[Path] = []
    for depth, parent in enumerate(parents, 1):
        path = parent / name
        try:
            here = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if is_whiteout(here):
            break
        if not stat.S_ISDIR(here.st_mode):
            if status is None:
                return Found(here, (path,))
            break
        status = status or here
        merged.append(path)
        if depth < len(parents) and is_opaque(path):
            break
    return Found(status, tuple(merged)) if status else None


def is_opaque(path: Path) -> bool:
    for mark in OPAQUE_MARKS:
        try:
            if os.getxattr(path, mark, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue  # not there, or not for us to read
    return False
