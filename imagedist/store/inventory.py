"""What lies in a store's directory: every file counted once, blobs by their last use, leftovers removed. Blocking.

Counted are apparent sizes (``st_size``): the bytes of what was verified, the same on every file system. Not counted
is what is gone in a moment (``*.size``, ``unsynced/``), the swarm's working links (``swarm/``: the same bytes as in
``blobs/``, or promised room), and the store's own few lines (``usage``, ``format``, ``scrub``, locks).
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from imagedist.oci.digest import Digest
from imagedist.store.partial import SIZE_SUFFIX, stated_size

_LOG = logging.getLogger(__name__)

ALGORITHMS = ("sha256", "sha512")
PARTIAL_KEPT_SECONDS = 24 * 3600.0
ASIDE_KEPT_SECONDS = 600.0
"""A file is written aside and renamed within milliseconds: older ones are a killed process's."""
_ASIDE = re.compile(r"\..+\.[0-9]+-[0-9]+\Z")
"""The names that ``files.write_aside`` gives."""
_UNCOUNTED = frozenset({"swarm", "unsynced"})


class Item(NamedTuple):
    """Something that may be evicted as a whole. ``digest`` is what pins name; None: nothing can pin it.

    ``used_at``: seconds since the epoch. ``paths``: its files, the first of which makes it exist, so it goes first;
    none for a blob, which only ``BlobStore.remove`` takes away.
    """

    used_at: float
    size_bytes: int
    name: str
    digest: Digest | None
    paths: tuple[Path, ...] = ()


class Folder(NamedTuple):
    files: int = 0
    size_bytes: int = 0


class Inventory(NamedTuple):
    """One count of a store.

    Attributes:
        used_bytes: all folders' bytes, and the room promised to blobs that are arriving now.
        outstanding_bytes: the part of that promise that has not arrived.
        folders: by name of the first level, as they are on the disk.
    """

    used_bytes: int
    outstanding_bytes: int
    folders: dict[str, Folder]
    blobs: list[Item]


def take(root: Path, now: float) -> Inventory:
    """Counts; removes what no commit can have made, and what killed processes left behind.

    Raises:
        OSError: a directory cannot be read.
    """
    # Partial files first: one that is renamed meanwhile is seen twice, as the same inode, and never missed.
    arriving, outstanding_bytes, inodes = _partials(root / "partial", now)
    folders = {"partial": arriving}
    blobs: list[Item] = []
    counted = Folder()
    for algorithm in ALGORITHMS:
        for digest, stat in _blobs(root / "blobs" / algorithm, algorithm, now):
            if stat.st_ino not in inodes:
                counted = Folder(counted.files + 1, counted.size_bytes + stat.st_size)
            blobs.append(Item(stat.st_atime, stat.st_size, str(digest), digest))
    folders["blobs"] = counted
    for entry in os.scandir(root):
        if entry.is_dir(follow_symlinks=False) and entry.name not in folders and entry.name not in _UNCOUNTED:
            folders[entry.name] = _count(entry.path, now)
    used_bytes = outstanding_bytes + sum(folder.size_bytes for folder in folders.values())
    return Inventory(used_bytes, outstanding_bytes, folders, blobs)


def outstanding_bytes(directory: Path) -> int:
    """What blobs that are arriving may still write; too much when a killed process left a stated size."""
    total_bytes = 0
    for path in _arriving(directory):
        size_bytes = stated_size(path)
        if size_bytes is not None:
            with suppress(FileNotFoundError):  # committed or dropped this moment
                total_bytes += max(0, size_bytes - path.stat(follow_symlinks=False).st_size)
    return total_bytes


def is_claimed(path: Path) -> bool:
    """Whether some process holds the lock of a partial file (``partial.Partial.claim``)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _partials(directory: Path, now: float) -> tuple[Folder, int, set[int]]:
    files = size_bytes = outstanding = 0
    inodes = set()
    for entry in list(os.scandir(directory)):
        if entry.name.endswith(SIZE_SUFFIX):
            if not os.path.exists(entry.path.removesuffix(SIZE_SUFFIX)):
                _unlink_if_older(entry, now - ASIDE_KEPT_SECONDS)
        elif _ASIDE.match(entry.name):
            _unlink_if_older(entry, now - ASIDE_KEPT_SECONDS)
    for path in _arriving(directory):
        # In this order. A file that grows and is committed meanwhile counts with the size it was promised: nothing is
        # promised or given back while the ledger is locked, and what is not claimed does not grow.
        is_held = is_claimed(path)
        stated = stated_size(path)
        try:
            stat = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # committed or dropped this moment
        if stat.st_mtime < now - PARTIAL_KEPT_SECONDS and not is_held and not is_claimed(path):
            path.unlink(missing_ok=True)
            path.with_name(path.name + SIZE_SUFFIX).unlink(missing_ok=True)
            continue
        files, size_bytes = files + 1, size_bytes + stat.st_size
        inodes.add(stat.st_ino)
        if is_held and stated is not None:
            outstanding += max(0, stated - stat.st_size)
    return Folder(files, size_bytes), outstanding, inodes


def _arriving(directory: Path) -> list[Path]:
    """The partial files, without what lies beside them."""
    names = [entry.name for entry in os.scandir(directory)]
    return [directory / name for name in names if not name.endswith(SIZE_SUFFIX) and not name.startswith(".")]


def _blobs(directory: Path, algorithm: str, now: float) -> Iterator[tuple[Digest, os.stat_result]]:
    for entry in os.scandir(directory):
        digest = Digest.of_name(algorithm, entry.name)
        if digest is None or not entry.is_file(follow_symlinks=False):
            _LOG.warning("dropping %s: not a blob", entry.path)
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            continue
        try:
            yield digest, entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue


def _count(directory: str, now: float) -> Folder:
    files = size_bytes = 0
    for entry in os.scandir(directory):
        try:
            if entry.is_dir(follow_symlinks=False):
                inner = _count(entry.path, now)
                files, size_bytes = files + inner.files, size_bytes + inner.size_bytes
            elif _ASIDE.match(entry.name) and _unlink_if_older(entry, now - ASIDE_KEPT_SECONDS):
                continue
            elif entry.is_file(follow_symlinks=False):
                files, size_bytes = files + 1, size_bytes + entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return Folder(files, size_bytes)


def _unlink_if_older(entry: os.DirEntry[str], time: float) -> bool:
    try:
        if entry.stat(follow_symlinks=False).st_mtime >= time:
            return False
        os.unlink(entry.path)
    except FileNotFoundError:
        pass
    return True
