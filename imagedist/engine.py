"""The unpack engine of one process, put together: store, ramdisk, workers, with defaults that suit the machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagedist import memory
from imagedist.privileges import is_machine_root, user_id

if TYPE_CHECKING:
    from imagedist.config import StorageTable, UnpackTable
    from imagedist.overlay.store import Durability, OverlayStore
    from imagedist.unpack.limits import Devices
    from imagedist.unpack.placement import IoClass
    from imagedist.unpack.ramdisk import Ramdisk
    from imagedist.unpack.workers import Workers

_LOG = logging.getLogger(__name__)

_SHARE_OF_FREE = 0.5
"""Of the machine's available memory, and of a tmpfs that others use too, at most half is ours."""
_FILE_SYSTEMS_SHARE = 32
"""One part in so many of a tmpfs of our own is left for its inodes and for half-filled pages."""


@dataclass(frozen=True, slots=True)
class Engine:
    store: OverlayStore
    ramdisk: Ramdisk
    workers: Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class StoragePlan:
    """The configuration's table ``[storage]`` of a command: plain, since pydantic would cost every pull 0.1 s."""

    root: Path
    quota: int | None = None
    durability: Durability = "image"
    used_by: tuple[Path, ...] = (Path("/var/lib/containers/storage"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackPlan:
    """Likewise ``[unpack]``, as it is when nobody says how to unpack."""

    ramdisk: Path
    ramdisk_budget: int = 4 << 30
    cpus: frozenset[int] | None = None
    workers: int | None = None
    nice: int = 0
    io_class: IoClass = "none"
    cgroup: str | None = None
    cpu_max: float | None = None
    memory_max: int | None = None
    devices: Devices = "keep"
    max_layer_entries: int = 2_000_000
    max_layer_size: int = 100 << 30
    max_layer_ratio: int = 500


def default_root() -> Path:
    """Where images go when nobody says: the system's store for root, the user's own otherwise."""
    if is_machine_root():
        return Path("/var/lib/imagedist/storage")
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "imagedist" / "storage"


def default_used_by() -> list[Path]:
    """Where podman keeps the containers of whoever runs this."""
    if is_machine_root():
        return [Path("/var/lib/containers/storage")]
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return [Path(data).expanduser() / "containers" / "storage"]


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
    name = "imagedist" if is_machine_root() else f"imagedist-{user_id()}"
    return Path("/dev/shm") / name


def agent_workers() -> int:
    """A quarter of the CPUs, at least two: an agent unpacks beside what the node is for (design.md §4.5)."""
    return max(2, len(os.sched_getaffinity(0)) // 4)


def affordable_bytes(unpack: UnpackTable | UnpackPlan, proc: Path = Path("/proc")) -> int:
    """The ramdisk budget as far as memory goes. What is more than that is said, and staged on disk."""
    asked = int(unpack.ramdisk_budget)
    budget = min(asked, int(memory.available_bytes(proc) * _SHARE_OF_FREE))
    limit = memory.limit_bytes(proc)
    if limit is not None and asked > (room := max(0, limit - memory.RESERVE_BYTES)):
        _LOG.warning(
            "ramdisk_budget %d MiB is more than this process's cgroup has room for (a limit of %d MiB, of which %d MiB "
            "are for the processes): %d MiB are used; raise MemoryMax= or lower the budget",
            *(count >> 20 for count in (asked, limit, memory.RESERVE_BYTES, room)),
        )
        budget = min(budget, room)
    return budget


@contextmanager
def started_workers(unpack: UnpackTable | UnpackPlan) -> Iterator[Workers]:
    """The worker processes, which load while the caller does other things.

    Raises:
        StorageError: the placement that was asked for cannot be had.
    """
    from imagedist.unpack.limits import Limits
    from imagedist.unpack.placement import Cgroup, Placement, remove_cgroup
    from imagedist.unpack.workers import Workers

    with ExitStack() as stack:
        cgroup = None
        if unpack.cgroup is not None:
            cgroup = Cgroup(unpack.cgroup, unpack.cpu_max, unpack.memory_max).prepare()
            stack.callback(remove_cgroup, cgroup)
        placement = Placement(unpack.cpus, unpack.nice, unpack.io_class, cgroup)
        placement.check()
        limits = Limits(unpack.max_layer_entries, int(unpack.max_layer_size), unpack.max_layer_ratio, unpack.devices)
        count = unpack.workers or len(unpack.cpus or os.sched_getaffinity(0))
        workers = Workers(count, placement, limits)
        stack.callback(workers.close)
        yield workers


@contextmanager
def opened(
    storage: StorageTable | StoragePlan,
    unpack: UnpackTable | UnpackPlan,
    workers: Workers,
    budget_bytes: int | None = None,
) -> Iterator[Engine]:
    """The engine while it is needed; closing it leaves no staged tar behind.

    Args:
        workers: whoever started them ends them.
        budget_bytes: what ``affordable_bytes`` said, if it was asked already.

    Raises:
        StorageError: a directory cannot be used.
    """
    from imagedist.overlay.store import OverlayStore
    from imagedist.unpack.ramdisk import Ramdisk

    memory.keep_freed()
    if budget_bytes is None:
        budget_bytes = affordable_bytes(unpack)
    if budget_bytes and not is_tmpfs(unpack.ramdisk):
        _LOG.warning("ramdisk %s is not on a tmpfs: staged tars go to its disk; mount one there", unpack.ramdisk)
    quota_bytes = None if storage.quota is None else int(storage.quota)
    store = OverlayStore(storage.root, durability=storage.durability, used_by=storage.used_by, quota_bytes=quota_bytes)
    budget_bytes = min(budget_bytes, _room_bytes(unpack.ramdisk))
    ramdisk = Ramdisk(unpack.ramdisk, budget_bytes, storage.root / "imagedist" / "spill")
    try:
        yield Engine(store, ramdisk, workers)
    finally:
        ramdisk.close()


def _room_bytes(directory: Path) -> int:
    """A file system of its own is ours but for what it needs itself, whatever a killed process left in it."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    sizes = os.statvfs(existing)
    if os.path.ismount(directory):
        return sizes.f_blocks * sizes.f_frsize * (_FILE_SYSTEMS_SHARE - 1) // _FILE_SYSTEMS_SHARE
    return int(sizes.f_bavail * sizes.f_frsize * _SHARE_OF_FREE)
