"""The unpack engine of one process, put together: store, ramdisk, workers, with defaults that suit the machine."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagedist.config import StorageTable, UnpackTable
from imagedist.overlay.store import OverlayStore
from imagedist.unpack.ramdisk import Ramdisk
from imagedist.unpack.workers import Workers

_LOG = logging.getLogger(__name__)

_SHARE_OF_FREE = 0.5
"""Of the free memory on the ramdisk at most half is ours: the rest belongs to what the node is for."""


@dataclass(frozen=True, slots=True)
class Engine:
    store: OverlayStore
    ramdisk: Ramdisk
    workers: Workers


def default_root() -> Path:
    """Where images go when nobody says: the system's store for root, the user's own otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/imagedist/storage")
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "imagedist" / "storage"


def is_tmpfs(path: Path) -> bool:
    """Whether a path (or what there is of it) lies in memory, by the device number in mountinfo(5)."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    device = existing.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as lines:
        kinds = [line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == wanted]
    return "tmpfs" in kinds


def default_ramdisk() -> Path:
    """``/dev/shm`` is a tmpfs on every Linux, so nobody needs to mount one."""
    name = "imagedist" if os.geteuid() == 0 else f"imagedist-{os.geteuid()}"
    return Path("/dev/shm") / name


def agent_workers() -> int:
    """A quarter of the CPUs, at least two: an agent unpacks beside what the node is for (design.md §4.5)."""
    return max(2, len(os.sched_getaffinity(0)) // 4)


@contextmanager
def opened(storage: StorageTable, unpack: UnpackTable) -> Iterator[Engine]:
    """The engine while it is needed; closing it leaves no process, mount or staged tar behind.

    Raises:
        StorageError: a directory cannot be used.
    """
    if not is_tmpfs(unpack.ramdisk):
        _LOG.warning("ramdisk %s is not on a tmpfs: staged tars go to its disk; mount one there", unpack.ramdisk)
    workers = unpack.workers or len(unpack.cpus or os.sched_getaffinity(0))
    with ExitStack() as stack:
        store = OverlayStore(storage.root, durability=storage.durability, used_by=storage.used_by)
        ramdisk = Ramdisk(unpack.ramdisk, _budget(unpack), storage.root / "imagedist" / "spill")
        stack.callback(ramdisk.close)
        pool = Workers(workers, nice=unpack.nice, cpus=unpack.cpus)
        stack.callback(pool.close)
        yield Engine(store, ramdisk, pool)


def _budget(unpack: UnpackTable) -> int:
    free = shutil.disk_usage(next(path for path in (unpack.ramdisk, *unpack.ramdisk.parents) if path.exists())).free
    return min(int(unpack.ramdisk_budget), int(free * _SHARE_OF_FREE))
