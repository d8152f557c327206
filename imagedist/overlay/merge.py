"""Gives a layer that was extracted alone what only its lower layers can tell: the directories, links and whiteouts that
depend on them. The result is what sequential application to one root file system would leave (umoci is the model).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from imagedist.errors import UnacceptableError, storage_error
from imagedist.overlay import tarsplit
from imagedist.overlay.view import Found, View, is_opaque, is_whiteout, prefixes
from imagedist.overlay.whiteouts import Remaining, Whiteout
from imagedist.privileges import may_give_away, opaque_mark

_MAX_LINKS = 40  # as the kernel: ELOOP after 40 symlinks


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
    def whiteouts(self) -> Sequence[Whiteout]: ...
    @property
    def no_symlinks(self) -> Sequence[str]: ...
    @property
    def opaque(self) -> Sequence[str]: ...
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
    """Whiteouts first: they mean lower layers only. Then what is below lower symlinks goes where these lead."""

    def __init__(self, extracted: Extracted, lowers: Sequence[Path]) -> None:
        self._diff = extracted.directory / "diff"
        self._aside = extracted.directory / "moving"
        self._lower = View(lowers)
        self._remaining = Remaining(lowers, extracted.whiteouts)
        self._merged = View([*lowers, self._diff])
        self._extracted = extracted
        self._opaque_mark = opaque_mark()
        self._moved: dict[str, str] = {}
        self._followed: set[str] = set()
        # Undescribed directories by inode, as their paths change, until it is known that they are no lower symlink.
        self._unsettled = {(self._diff / path).lstat().st_ino for path in extracted.undescribed if path}
        self._replacing = {(self._diff / path).lstat().st_ino for path in extracted.opaque}
        self._undescribed = [""] if "" in extracted.undescribed else []
        self._unmarked_opaque = list(extracted.unmarked_opaque)

    def run(self) -> None:
        self._apply_whiteouts()
        self._settle_directories()
        for path in self._unmarked_opaque:
            self._hide_lower_children(self._current(path))
        for link in self._extracted.lower_links:
            self._link(self._current(link.path), link.target)
        self._refuse_what_hangs_on_order()
        # Children before parents, which may be closed to us then, and last: everything above changed their times.
        for path in sorted(self._undescribed, reverse=True):
            self._take_lower_metadata(path)
        if self._moved:
            tarsplit.rename(self._extracted.directory / "tar-split.gz", self._current)

    def _apply_whiteouts(self) -> None:
        for path in self._remaining.hidden:
            place = self._diff / path
            if self._is_hidden(path):
                continue
            if _is_directory(place):
                self._make_opaque(path)
            elif not os.path.lexists(place):
                self._add_directories(path.rpartition("/")[0])
                with _keeping_times(place.parent):
                    os.mknod(place, stat.S_IFCHR, 0)
        for path in self._remaining.emptied:
            place = self._diff / path
            if not path:
                self._unmarked_opaque.append(path)  # overlayfs ignores the mark there
            elif not self._is_hidden(path) and (_is_directory(place) or not os.path.lexists(place)):
                self._add_directories(path)
                self._mark_opaque(path)

    def _settle_directories(self) -> None:
        """Directories no entry described, parents first: one that is a symlink below is the symlink's target."""
        todo = deque(self._extracted.undescribed)
        following: dict[str, None] = {}
        while todo:
            path = self._first_unsettled(todo[0])
            if path is None:
                todo.popleft()
                continue
            found = self._below(path)
            if found is None or not found.is_symlink:
                self._unsettled.discard(_inode(self._diff / path))
                self._undescribed.append(path)
                continue
            following[path] = None
            target = self._follow(path, os.readlink(found.paths[0]))
            other = self._first_unsettled(target)
            if other is None:
                del following[path]
                todo.extendleft(reversed(self._move_into_target(path, target)))
            elif other in following or len(following) > _MAX_LINKS:
                raise UnacceptableError(f"unsafe layer: too many symlinks on the way to {path!r}")
            else:
                todo.appendleft(other)

    def _refuse_what_hangs_on_order(self) -> None:
        """A lower symlink that the layer both follows and replaces."""
        for path in self._extracted.no_symlinks:
            above, _, name = path.rpartition("/")
            found = self._remaining.lookup(f"{self._current(above)}/{name}".lstrip("/"))
            if found is not None and found.is_symlink:
                raise _two_names(path)
        for path in self._followed:
            if os.path.lexists(self._diff / path):
                raise _two_names(path)

    def _first_unsettled(self, path: str) -> str | None:
        """The uppermost of the directories to ``path`` that may turn out to be a symlink."""
        for prefix in prefixes(path):
            place = self._diff / prefix
            if not _is_directory(place):
                return None
            if _inode(place) in self._unsettled:
                return prefix
        return None

    def _follow(self, path: str, target: str) -> str:
        """Where a lower symlink leads. Refused when the layer itself changes that: the order of its entries decides."""
        way = target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"
        followed = {path}
        resolved = self._merged.resolve(way, followed)
        if self._first_unsettled(resolved) is None:
            if resolved != self._remaining.resolve(way) or any(self._is_replacing(one) for one in prefixes(resolved)):
                raise _two_names(path)
            self._followed |= followed
        return resolved

    def _move_into_target(self, path: str, target: str) -> list[str]:
        """Returns the unsettled directories that came along, parents first, where they are now."""
        self._add_directories(target)
        with _keeping_times((self._diff / path).parent):
            (self._diff / path).rename(self._aside)  # the target may be above it
        within = [Path(top) for top, _, _ in os.walk(self._aside) if _inode(Path(top)) in self._unsettled]
        self._moved[path] = target
        self._join(self._aside, target)
        return [f"{target}/{one.relative_to(self._aside)}".lstrip("/") for one in within if one != self._aside]

    def _join(self, source: Path, target: str) -> None:
        """Joins an undescribed directory with another of this layer.

        A whiteout hides what lower layers have, never its own. What two entries of the layer describe is refused: the
        last one should win, and the order of the entries is not known any more.
        """
        with _keeping_times(self._diff / target):
            for name in os.listdir(source):
                child, path = source / name, f"{target}/{name}".lstrip("/")
                place = self._diff / path
                is_unsettled = _inode(child) in self._unsettled
                if not os.path.lexists(place):
                    child.rename(place)
                elif is_whiteout(place.lstat()):
                    place.unlink()
                    child.rename(place)
                    if _is_directory(place):
                        self._make_opaque(path)
                elif is_unsettled and _is_directory(place) and not self._is_replacing(path):
                    self._join(child, path)
                else:
                    raise _two_names(path)
        self._unsettled.discard(_inode(source))
        source.rmdir()

    def _is_replacing(self, path: str) -> bool:
        """Whether a directory of the layer took the place of a symlink below or of an earlier file of the layer."""
        if not _is_directory(self._diff / path):
            return False
        inode, found = _inode(self._diff / path), self._below(path)
        is_symlink_below = found is not None and found.is_symlink
        return inode in self._replacing or (is_symlink_below and inode not in self._unsettled)

    def _add_directories(self, path: str) -> None:
        """Adds what is missing of them: the lower layers' ones, or new where these have none."""
        for prefix in prefixes(path):
            directory = self._diff / prefix
            if _is_directory(directory):
                continue
            with _keeping_times(directory.parent):
                if os.path.lexists(directory):  # a whiteout that the layer's own entry goes through
                    if not is_whiteout(directory.lstat()):
                        raise _two_names(prefix)
                    directory.unlink()
                    directory.mkdir(mode=0o755)
                    self._make_opaque(prefix)
                else:
                    directory.mkdir(mode=0o755)
                    self._undescribed.append(prefix)

    def _is_hidden(self, path: str) -> bool:
        """Whether what this layer has above ``path`` hides what lower layers have there."""
        for prefix in prefixes(path.rpartition("/")[0]):
            place = self._diff / prefix
            if not os.path.lexists(place):
                return False
            if not _is_directory(place) or is_opaque(place):
                return True
        return False

    def _below(self, path: str) -> Found | None:
        """What lower layers have at ``path`` that would show through."""
        return None if self._is_hidden(path) else self._remaining.lookup(path)

    def _make_opaque(self, path: str) -> None:
        """For a directory that takes the place of a whiteout: nothing of the lower one is left."""
        self._unsettled.discard(_inode(self._diff / path))
        self._mark_opaque(path)

    def _mark_opaque(self, path: str) -> None:
        directory = self._diff / path
        with _keeping_times(directory):
            try:
                os.setxattr(directory, self._opaque_mark, b"y")
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
                self._unmarked_opaque.append(path)

    def _current(self, path: str) -> str:
        """Where a path of this layer is now that undescribed directories were moved into their targets."""
        now = ""
        for name in path.split("/"):
            now = f"{now}/{name}".lstrip("/")
            now = self._moved.get(now, now)
        return now

    def _hide_lower_children(self, path: str) -> None:
        found, shown = self._lower.lookup(path), self._merged.lookup(path)
        if found is None or not found.is_directory or shown is None or len(shown.paths) == 1:
            return  # nothing of lower layers shows in it as it is
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
        resolved = self._merged.resolve(parent, self._followed)
        there = f"{resolved}/{name}".lstrip("/")
        found, shown = self._lower.lookup(there), self._merged.lookup(there)
        if found is None:
            found = shown  # a lower symlink may lead to a file of this very layer
        elif resolved != parent and shown is not None and shown.paths != found.paths:
            raise _two_names(path)
        if found is None or found.is_directory:
            raise UnacceptableError(f"malformed layer: hard link {path!r} to {target!r}, which no layer has as a file")
        place = self._diff / path
        with _keeping_times(place.parent):
            if os.path.lexists(place):
                if not is_whiteout(place.lstat()):
                    raise _two_names(path)
                place.unlink()
            os.link(found.paths[0], place, follow_symlinks=False)

    def _take_lower_metadata(self, path: str) -> None:
        found = self._below(path)
        if found is not None and found.is_directory:
            _copy_metadata(found, self._diff / path)


def _two_names(path: str) -> UnacceptableError:
    return UnacceptableError(f"unsupported layer: {path!r} comes by two names, one of them through a lower symlink")


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _inode(path: Path) -> int:
    return path.lstat().st_ino


def _copy_metadata(found: Found, directory: Path) -> None:
    """Owner, mode, times and ordinary xattrs of the lower layers' directory."""
    status, source = found.stat, found.paths[0]
    if may_give_away():
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
