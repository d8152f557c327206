"""Gives a layer that was extracted alone what only its lower layers can tell: the directories, links and whiteouts that
depend on them. The result is what sequential application to one root file system would leave (umoci is the model).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from imagedist.errors import UnacceptableError, storage_error
from imagedist.overlay.view import OPAQUE_MARKS, Found, View


class LowerLink(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def target(self) -> str: ...


class Extracted(Protocol):
    """What this package needs of an extracted layer (``unpack.extract.ExtractedLayer``, which it does not import)."""

    @property
    def directory(self) -> Path: ...
    @property
    def tar_bytes(self) -> int: ...
    @property
    def undescribed(self) -> Sequence[str]: ...
    @property
    def whiteouts(self) -> Sequence[str]: ...
    @property
    def unmarked_opaque(self) -> Sequence[str]: ...
    @property
    def lower_links(self) -> Sequence[LowerLink]: ...
    @property
    def uids(self) -> Sequence[int]: ...
    @property
    def gids(self) -> Sequence[int]: ...
    @property
    def skipped(self) -> Mapping[str, int]: ...


def complete(extracted: Extracted, lowers: Sequence[Path]) -> None:
    """Completes ``extracted.directory/diff`` in place.

    Args:
        lowers: the ``diff`` directories of the layers below, base first.

    Raises:
        UnacceptableError: a hard link to a file that no layer has. StorageError: the disk failed.
    """
    try:
        _Completion(extracted, lowers).run()
    except OSError as error:
        raise storage_error(f"merge a layer in {extracted.directory}", error) from error


class _Completion:
    def __init__(self, extracted: Extracted, lowers: Sequence[Path]) -> None:
        self._diff = extracted.directory / "diff"
        self._lower = View(lowers)
        self._merged = View([*lowers, self._diff])
        self._extracted = extracted
        self._moved: dict[str, str] = {}
        self._undescribed: list[str] = []

    def run(self) -> None:
        self._settle_directories()
        for path in self._extracted.unmarked_opaque:
            self._hide_lower_children(self._current(path))
        for link in self._extracted.lower_links:
            self._link(self._current(link.path), link.target)
        for path in self._extracted.whiteouts:
            self._drop_if_pointless(self._current(path))
        # Children before parents, and the times last: everything above changed them.
        for path in reversed(self._undescribed):
            self._take_lower_metadata(path)

    def _settle_directories(self) -> None:
        """Directories no entry described, parents first: one that is a symlink below is the symlink's target."""
        todo = deque(self._extracted.undescribed)
        while todo:
            path = self._current(todo.popleft())
            found = self._lower.lookup(path)
            if found is not None and found.is_symlink:
                self._move_into_target(path, os.readlink(found.paths[0]))
            elif path not in self._undescribed:
                self._undescribed.append(path)

    def _move_into_target(self, path: str, target: str) -> None:
        parent = path.rpartition("/")[0]
        inside = self._merged.resolve(target if target.startswith("/") else f"{parent}/{target}")
        if not inside or f"{inside}/".startswith(f"{path}/"):
            raise UnacceptableError(f"unsafe layer: {path!r} is a symlink to itself or the root below it")
        self._add_directories(inside)
        with _keeping_times(self._diff / parent):
            _move_children(self._diff / path, self._diff / inside)
            _move_opaque_mark(self._diff / path, self._diff / inside)
            (self._diff / path).rmdir()
        self._moved[path] = inside

    def _add_directories(self, path: str) -> None:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            above, directory = self._diff.joinpath(*parts[: depth - 1]), self._diff.joinpath(*parts[:depth])
            if _is_directory(directory):
                continue
            with _keeping_times(above):
                directory.unlink(missing_ok=True)  # a whiteout or file that the layer's own entry goes through
                directory.mkdir(mode=0o755)
            self._undescribed.append("/".join(parts[:depth]))

    def _current(self, path: str) -> str:
        """Where a path of this layer is now that undescribed directories were moved into their targets."""
        changed = True
        while changed:
            changed = False
            for old, new in self._moved.items():
                if path == old or path.startswith(f"{old}/"):
                    path, changed = new + path[len(old) :], True
        return path

    def _hide_lower_children(self, path: str) -> None:
        found = self._lower.lookup(path)
        if found is None or not found.is_directory:
            return
        with _keeping_times(self._diff / path):
            for name in self._lower.children(found):
                target = self._diff / path / name
                if not os.path.lexists(target):
                    os.mknod(target, stat.S_IFCHR, 0)
                elif _is_directory(target):
                    self._hide_lower_children(f"{path}/{name}".lstrip("/"))

    def _link(self, path: str, target: str) -> None:
        """The lower layers' very file gets one more name: layers never change, and all are on one file system."""
        parent, _, name = target.rpartition("/")
        resolved = self._merged.resolve(parent)
        found = self._lower.lookup(f"{resolved}/{name}".lstrip("/"))
        if resolved != parent:  # through a lower symlink: it may lead to a file of this very layer
            found = self._merged.lookup(f"{resolved}/{name}".lstrip("/")) or found
        if found is None or found.is_directory:
            raise UnacceptableError(f"malformed layer: hard link {path!r} to {target!r}, which no layer has as a file")
        place = self._diff / path
        with _keeping_times(place.parent):
            if not _is_directory(place):
                place.unlink(missing_ok=True)
            os.link(found.paths[0], place, follow_symlinks=False)

    def _drop_if_pointless(self, path: str) -> None:
        """A whiteout of nothing would show as a broken file where overlayfs has no lower directory to merge."""
        if self._lower.lookup(path) is None:
            place = self._diff / path
            with _keeping_times(place.parent):
                place.unlink(missing_ok=True)

    def _take_lower_metadata(self, path: str) -> None:
        found = self._lower.lookup(path)
        directory = self._diff / path
        if found is not None and found.is_directory:
            _copy_metadata(found, directory)
        elif path and not os.listdir(directory):
            with _keeping_times(directory.parent):
                directory.rmdir()  # it was there only for a whiteout of nothing, which makes no directories


def _move_children(source: Path, target: Path) -> None:
    for child in list(source.iterdir()):
        place = target / child.name
        if _is_directory(child) and _is_directory(place):
            _move_children(child, place)
            child.rmdir()
        elif not os.path.lexists(place) or not (_is_directory(child) or _is_directory(place)):
            child.rename(place)
        else:
            raise UnacceptableError(f"malformed layer: {child.name!r} is a file by one name and a directory by another")


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _move_opaque_mark(source: Path, target: Path) -> None:
    for mark in set(OPAQUE_MARKS) & set(os.listxattr(source)):
        os.setxattr(target, mark, os.getxattr(source, mark))


def _copy_metadata(found: Found, directory: Path) -> None:
    """Owner, mode, times and ordinary xattrs of the lower layers' directory."""
    status, source = found.stat, found.paths[0]
    if os.geteuid() == 0:
        os.chown(directory, status.st_uid, status.st_gid)
    os.chmod(directory, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if name.startswith("user.") and not name.startswith("user.overlay."):
            os.setxattr(directory, name, os.getxattr(source, name))
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextlib.contextmanager
def _keeping_times(directory: Path) -> Iterator[None]:
    before = directory.stat()
    yield
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
