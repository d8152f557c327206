"""Short-lived directories in memory for sockets, state and logs; what a killed benchmark left is found and removed."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.account import PREFIX, abandoned_cgroups, is_abandoned
from bench.processes import run


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory in memory if there is some, with a short name: paths of sockets end at 107 characters."""
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_above()))
    try:
        yield directory
    finally:
        remove(directory)


def remove_abandoned() -> None:
    """Ends the processes of benchmarks that no longer run, and removes their cgroups and directories, but for those
    that another process is removing.

    Raises:
        ImagedistError: something there is in use.
    """
    for cgroup in abandoned_cgroups():
        cgroup.remove()
    for directory in abandoned_directories():
        with _alone(directory) as is_alone:
            if is_alone:
                remove(directory)


def abandoned_directories() -> list[Path]:
    """Those of benchmarks that no longer run."""
    return [directory for directory in _above().glob(f"{PREFIX}*") if is_abandoned(directory.name)]


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Whether no other process removes the directory while the block runs, nor has removed it."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_alone = True
    except BlockingIOError:
        is_alone = False
    try:
        yield is_alone
    finally:
        os.close(lock)


def remove(directory: Path) -> None:
    """Removes a tree, whatever it holds, once nothing is mounted in it: nothing is ever removed through a mount.

    Raises:
        ImagedistError: something there is in use.
    """
    if directory.exists():
        # As the kernel names it; only the last part may be a link, and is then what goes.
        directory = directory.parent.resolve() / directory.name
        unmount_below(directory)
        run(["rm", "--recursive", "--force", "--one-file-system", str(directory)])


def unmount_below(directory: Path) -> None:
    """Unmounts a directory and everything below it, innermost first.

    Raises:
        ImagedistError: something there is in use.
    """
    points = [point for point, _ in mounts() if Path(point).is_relative_to(directory)]
    for point in sorted(points, key=len, reverse=True):
        run(["umount", point])


def mounts() -> list[tuple[str, str]]:
    """Where something is mounted, and kind and options of it (mountinfo(5)), in the order of mounting."""
    with open("/proc/self/mountinfo") as lines:
        parts = [line.split(" - ") for line in lines]
    return [
        (before.split()[4].encode().decode("unicode_escape"), f"{after.split()[0]} {before.split()[5]}")
        for before, after in parts
    ]


def _above() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
