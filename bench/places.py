"""Where stores lie: a directory, or a fresh ext4 in a file; emptied between runs, with nothing left to be written."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.directories import mounts, remove
from bench.processes import run
from imagedist.errors import InputError, storage_error
from imagedist.overlay.durability import sync_file_system

_STORE, _EXT4, _IMAGE = "imagedist-bench-store", "imagedist-bench-ext4", "imagedist-bench-ext4.image"
"""Removed with all they hold, before and after: no name that something of a user's may have."""
_SECTOR_BYTES = 512
"""Of ``/sys/block/…/stat``, whatever the device has (block/stat.rst)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory on the file system that is measured.

    Attributes:
        is_synced: whether a run is over only when ``syncfs`` has returned.
    """

    directory: Path
    is_synced: bool

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """An empty store for one run; what the run left, mounts included, goes when the block ends."""
        store = self.directory / _STORE
        remove(store)
        sync_file_system(self.directory)
        store.mkdir()
        try:
            yield store
        finally:
            remove(store)

    def written_bytes(self) -> int | None:
        """Written to the block device so far; None: others write to it as well, or there is none."""
        if not self.is_synced:
            return None
        device = os.stat(self.directory).st_dev
        fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
        return int(fields[6]) * _SECTOR_BYTES

    def settle(self) -> None:
        """Waits until everything is on the disk, where that is part of the run."""
        if self.is_synced:
            sync_file_system(self.directory)


@contextmanager
def place(directory: Path, ext4_bytes: int | None) -> Iterator[Place]:
    """The place for stores below ``directory``; with ``ext4_bytes`` a new file system of that size in a file there.

    Raises:
        InputError: not root, or no such tools. StorageError: no space or no permission.
    """
    if ext4_bytes is not None and os.geteuid() != 0:
        raise InputError("--ext4 mounts a file system: run it as root, or measure a directory with --store")
    is_new = not directory.exists()
    with _held(directory) as is_ours:
        if not is_ours:
            raise InputError(f"another benchmark measures in {directory}: name another directory with --store")
        _empty(directory)
        try:
            yield Place(directory, is_synced=False) if ext4_bytes is None else _mounted(directory, ext4_bytes)
        finally:
            _empty(directory)
            if is_new:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    directory.rmdir()


def remove_place(directory: Path, is_new: bool = False) -> None:
    """Removes what a killed benchmark left there, unless another has it now.

    Args:
        is_new: the directory was not there before: it goes, too, unless somebody has put something there.

    Raises:
        ImagedistError: something there is in use.
    """
    if directory.is_dir():
        with _held(directory) as is_ours:
            if is_ours:
                _empty(directory)
                if is_new:
                    with contextlib.suppress(OSError):
                        directory.rmdir()


@contextmanager
def _held(directory: Path) -> Iterator[bool]:
    """Whether no other benchmark has the place while the block runs."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(f"make {directory}", error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _mounted(directory: Path, ext4_bytes: int) -> Place:
    """A fresh ext4; its file has no name any more, so it goes with the mount."""
    image, mounted = directory / _IMAGE, directory / _EXT4
    try:
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(ext4_bytes)
        run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)])
        run(["mount", "-o", "loop", str(image), str(mounted)])
        image.unlink()
    except OSError as error:
        raise storage_error(f"make a file system in {image}", error) from error
    return Place(mounted, is_synced=True)


def _empty(directory: Path) -> None:
    for name in (_STORE, _EXT4, _IMAGE):
        remove(directory / name)


def file_system(directory: Path) -> str:
    """Kind and options of the mount that holds a directory, as ``ext4 rw,relatime`` (mountinfo(5))."""
    found = ("", "unknown")
    for point, kind in mounts():
        if directory.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]
