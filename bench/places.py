"""Where stores lie: a directory, or a fresh ext4 in a file; emptied between runs, with nothing left to be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.directories import mounts, remove, unmount_below
from bench.processes import run
from imagedist.errors import InputError, storage_error
from imagedist.overlay.durability import sync_file_system


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
        store = self.directory / "store"
        remove(store)
        sync_file_system(self.directory)
        store.mkdir()
        try:
            yield store
        finally:
            remove(store)

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
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(f"make {directory}", error) from error
    if ext4_bytes is None:
        yield Place(directory, is_synced=False)
        return
    if os.geteuid() != 0:
        raise InputError("--ext4 mounts a file system: run it as root, or measure a directory with --store")
    image, mounted = directory / "ext4.image", directory / "ext4"
    mounted.mkdir(exist_ok=True)
    unmount_below(mounted)
    try:
        with image.open("wb") as file:
            file.truncate(ext4_bytes)
        run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)])
        run(["mount", "-o", "loop", str(image), str(mounted)])
        yield Place(mounted, is_synced=True)
    except OSError as error:
        raise storage_error(f"make a file system in {image}", error) from error
    finally:
        unmount_below(mounted)
        image.unlink(missing_ok=True)
        mounted.rmdir()


def file_system(directory: Path) -> str:
    """Kind and options of the mount that holds a directory, as ``ext4 rw,relatime`` (mountinfo(5))."""
    found = ("", "unknown")
    for point, kind in mounts():
        if directory.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]
