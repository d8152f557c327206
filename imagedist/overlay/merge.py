"""Gives a layer that was extracted alone what only its lower layers can tell: the directories, links and whiteouts that
depend on them. The result is what sequential application to one root file system would leave (umoci is the model).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from imagedist.errors import UnacceptableError, storage_error
from imagedist.overlay import tarsplit
from imagedist.overlay.view import OPAQUE_MARKS, Found, View, is_whiteout


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
        UnacceptableError: a hard link to a file that no layer has, or names too long. StorageError: the disk failed.
    """
    try:
        _Completion(extracted, lowers).run()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UnacceptableError(f"unsafe layer: a path upon its lower layers cannot be had: {error}") from error
        raise storage_error(f"merge a layer in {extracted.directory}", error) from error


class _Completion:
    def __init__(self, extracted: Extracted, lowers: Sequence[Path]) -> None:
        self._diff = extracted.directory / "diff"
        self._lower = View(lowers)
        self._merged = View([*lowers, self._diff])
        self._extracted = extracted
        self._moved: dict[str, str] = {}
        self._undescribed: dict[str, None] = {}  # in order, each once
        self._fresh: set[str] = set()
        self._unmarked_opaque = list(extracted.unmarked_opaque)

    def run(self) -> None:
        self._settle_directories()
        for path in self._unmarked_opaque:
            self._hide_lower_children(self._current(path))
        for link in self._extracted.lower_links:
            self._link(self._current(link.path), link.target)
        for path in self._extracted.whiteouts:
            self._drop_if_pointless(self._current(path))
        # Children before parents, and the times last: everything above changed them.
        for path in reversed(self._undescribed):
            if _is_directory(self._diff / path):  # else a whiteout by another name took its place
                self._take_lower_metadata(path)
        if self._moved:
            tarsplit.rename(self._extracted.directory / "tar-split.gz", self._current)

    def _settle_directories(self) -> None:
        """Directories no entry described, parents first: one that is a symlink below is the symlink's target."""
        todo = deque(self._extracted.undescribed)
        while todo:
            path = self._current(todo.popleft())
            found = self._lower.lookup(path)
            if path in self._fresh or not _is_directory(self._diff / path):
                continue  # or it went with a parent that was there only for whiteouts
            if found is not None and found.is_symlink:
                self._move_into_target(path, os.readlink(found.paths[0]))
            else:
                self._undescribed[path] = None

    def _move_into_target(self, path: str, target: str) -> None:
        parent = path.rpartition("/")[0]
        inside = self._merged.resolve(target if target.startswith("/") else f"{parent}/{target}")
        if not inside or f"{inside}/".startswith(f"{path}/"):
            raise UnacceptableError(f"unsafe layer: {path!r} is a symlink to itself or the root below it")
        there = self._merged.lookup(inside)
        is_void = (there is None or not there.is_directory) and self._is_only_for_whiteouts(path)
        if not is_void:
            self._add_directories(inside)
        with _keeping_times(self._diff / parent):
            if is_void:
                shutil.rmtree(self._diff / path)
            else:
                self._move(path, inside)
        self._moved[path] = inside

    def _is_only_for_whiteouts(self, path: str) -> bool:
        """Whether an undescribed directory holds nothing that would be seen."""
        if any(self._current(link.path).startswith(f"{path}/") for link in self._extracted.lower_links):
            return False
        within = _directories_of_whiteouts(self._diff / path, path)
        return within is not None and within <= {self._current(one) for one in self._extracted.undescribed}

    def _add_directories(self, path: str) -> None:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            current = "/".join(parts[:depth])
            directory = self._diff / current
            if _is_directory(directory):
                continue
            is_hidden = self._lower.lookup(current) is not None and self._merged.lookup(current) is None
            with _keeping_times(directory.parent):
                if os.path.lexists(directory):  # a whiteout that the layer's own entry goes through
                    if not is_whiteout(directory.lstat()):
                        raise _two_names(current)
                    directory.unlink()
                    directory.mkdir(mode=0o755)
                    self._make_opaque(current)
                else:
                    directory.mkdir(mode=0o755)
                    if not is_hidden:
                        self._undescribed[current] = None

    def _move(self, source: str, target: str) -> None:
        """Joins an undescribed directory with another of this layer.

        A whiteout hides what lower layers have, never its own. What two entries of the layer describe is refused: the
        last one should win, and the order of the entries is not known any more.
        """
        for name in os.listdir(self._diff / source):
            child, place = self._diff / source / name, self._diff / target / name
            if not os.path.lexists(place):
                child.rename(place)
            elif is_whiteout(child.lstat()):
                if _is_directory(place) and self._is_only_for_whiteouts(f"{target}/{name}"):
                    shutil.rmtree(place)
                    child.rename(place)
                    continue
                if _is_directory(place):
                    self._make_opaque(f"{target}/{name}")
                child.unlink()
            elif is_whiteout(place.lstat()):
                place.unlink()
                child.rename(place)
                if _is_directory(place):
                    self._make_opaque(f"{target}/{name}")
            elif _is_directory(child) and _is_directory(place) and self._is_undescribed(f"{source}/{name}"):
                self._move(f"{source}/{name}", f"{target}/{name}")
            else:
                raise _two_names(f"{target}/{name}")
        _move_opaque_mark(self._diff / source, self._diff / target)
        (self._diff / source).rmdir()

    def _is_undescribed(self, path: str) -> bool:
        return any(self._current(one) == path for one in self._extracted.undescribed)

    def _make_opaque(self, path: str) -> None:
        """For a directory that takes the place of a whiteout: nothing of the lower one is left."""
        self._undescribed.pop(path, None)
        self._fresh.add(path)
        directory = self._diff / path
        with _keeping_times(directory):
            try:
                os.setxattr(directory, OPAQUE_MARKS[0 if os.geteuid() == 0 else 1], b"y")
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
                self._unmarked_opaque.append(path)

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
        if resolved != parent or found is None:  # a lower symlink may lead to a file of this very layer
            found = self._merged.lookup(f"{resolved}/{name}".lstrip("/")) or found
        if found is None or found.is_directory:
            raise UnacceptableError(f"malformed layer: hard link {path!r} to {target!r}, which no layer has as a file")
        place = self._diff / path
        with _keeping_times(place.parent):
            if os.path.lexists(place):
                if not is_whiteout(place.lstat()):
                    raise _two_names(path)
                place.unlink()
            os.link(found.paths[0], place, follow_symlinks=False)

    def _drop_if_pointless(self, path: str) -> None:
        """A whiteout of nothing would show as a broken file where overlayfs has no lower directory to merge."""
        if self._lower.lookup(path) is None:
            place = self._diff / path
            if os.path.lexists(place) and is_whiteout(place.lstat()):
                with _keeping_times(place.parent):
                    place.unlink()

    def _take_lower_metadata(self, path: str) -> None:
        found, above = self._lower.lookup(path), self._merged.lookup(path.rpartition("/")[0])
        directory = self._diff / path
        is_hidden = bool(path) and (above is None or len(above.paths) == 1)  # the directory above is ours alone
        if found is not None and found.is_directory and not is_hidden:
            _copy_metadata(found, directory)
        elif path and not os.listdir(directory):
            with _keeping_times(directory.parent):
                directory.rmdir()  # it was there only for a whiteout of nothing, which makes no directories


def _directories_of_whiteouts(directory: Path, path: str) -> set[str] | None:
    """The directories within, ``path`` among them; None when there is anything but whiteouts in them."""
    found = {path}
    for child in directory.iterdir():
        if _is_directory(child):
            within = _directories_of_whiteouts(child, f"{path}/{child.name}")
            if within is None:
                return None
            found |= within
        elif not is_whiteout(child.lstat()):
            return None
    return found


def _two_names(path: str) -> UnacceptableError:
    return UnacceptableError(f"unsupported layer: {path!r} comes by two names, one of them through a lower symlink")


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
