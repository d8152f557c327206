"""CPU time of a group of processes: a client, the daemon that works for it, and all their children, dead or alive."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_ENTER = 'echo $$ >"$0" && exec "$@"'
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_NUMBERS = itertools.count()
_END_SECONDS, _POLL_SECONDS = 5.0, 0.02
PREFIX = "imagedist-bench-"
"""Of cgroups and directories; then come the process that owns it and a dash."""
_OWNED = re.compile(rf"{PREFIX}(\d+)-\w+")
CPU_V1 = Path("/sys/fs/cgroup/cpu")
"""Where the CPUs are shared out by cgroup v1."""


class Account(Protocol):
    """Whose CPU time is counted."""

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command that runs ``command`` on this account."""

    def cpu_seconds(self) -> float:
        """User and system time so far; a difference of two readings means something."""

    def processes(self) -> list[int]:
        """Those alive."""


class CgroupAccount:
    """A cgroup v2 of its own: exact, whatever forks, daemonises or ends (cgroup-v2.rst, ``cpu.stat``)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def enter(self, command: Sequence[str]) -> list[str]:
        return ["sh", "-c", _ENTER, str(self._directory / "cgroup.procs"), *command]

    def cpu_seconds(self) -> float:
        first = (self._directory / "cpu.stat").read_text().splitlines()[0]
        return int(first.removeprefix("usage_usec ")) / 1e6

    def processes(self) -> list[int]:
        try:
            found = [int(line) for line in (self._directory / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []
        # 0: a process of another pid namespace; a signal to 0 would be for ourselves.
        return [process for process in found if process > 0]

    def remove(self) -> None:
        """With what still runs in it, such as the children of a client that was killed; what does not end keeps it."""
        deadline = time.monotonic() + _END_SECONDS
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(OSError):
            self._directory.rmdir()


class TreeAccount:
    """Without cgroups: this process's descendants but those on another account, from proc(5).

    Args:
        others: accounts whose processes are not ours.
    """

    def __init__(self, others: Sequence[Account] = ()) -> None:
        self._others = others

    def enter(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def cpu_seconds(self) -> float:
        """Those that ended and were waited for by us, and those alive with their own ended children."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + sum(_cpu_seconds(process) for process in self.processes())

    def processes(self) -> list[int]:
        not_ours = {process for other in self._others for process in other.processes()}
        return [process for process in descendants(os.getpid()) if process not in not_ours]


class ProcessAccount:
    """Long-running processes and their descendants, without cgroups; ``roots`` says which."""

    def __init__(self) -> None:
        self.roots: set[int] = set()

    def enter(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def cpu_seconds(self) -> float:
        return sum(_cpu_seconds(process) for process in self.processes())

    def processes(self) -> list[int]:
        return [process for root in self.roots for process in (root, *descendants(root))]


@contextmanager
def cgroup_account() -> Iterator[CgroupAccount | None]:
    """A fresh account, or None where this user may make no cgroup."""
    above = own_cgroup()
    if above is None:
        yield None
        return
    directory = above / fresh_name()
    try:
        directory.mkdir()
        account = CgroupAccount(directory)
        account.cpu_seconds()
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            directory.rmdir()
        yield None
        return
    try:
        yield account
    finally:
        account.remove()


def fresh_name() -> str:
    """Of a cgroup, by which it is found when this process was killed."""
    return f"{PREFIX}{os.getpid()}-{next(_NUMBERS)}"


def abandoned_cgroups() -> list[CgroupAccount]:
    """Those of benchmarks that no longer run."""
    places = [place for place in (own_cgroup(), CPU_V1) if place is not None]
    return [CgroupAccount(path) for place in places for path in place.glob(f"{PREFIX}*") if is_abandoned(path.name)]


def is_abandoned(name: str) -> bool:
    """Whether a cgroup or directory of this name is a benchmark's, and that no longer runs."""
    owner = _OWNED.fullmatch(name)
    return owner is not None and not is_alive(int(owner[1]))


def own_cgroup() -> Path | None:
    """This process's cgroup v2 directory, in the unified or the hybrid layout."""
    with open("/proc/self/mountinfo") as lines:
        mounts = [line.split() for line in lines if " - cgroup2 " in line]
    with open("/proc/self/cgroup") as lines:
        paths = [line.strip().removeprefix("0::") for line in lines if line.startswith("0::")]
    return Path(mounts[0][4]) / paths[0].lstrip("/") if mounts and paths else None


def descendants(process: int) -> list[int]:
    """Children, their children and so on, of those alive."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = list(children.get(process, []))
    for child in found:
        found += children.get(child, [])
    return found


def threads(process: int) -> list[int]:
    """Of a process; none when it is gone."""
    try:
        return [int(thread) for thread in os.listdir(f"/proc/{process}/task")]
    except FileNotFoundError:
        return []


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended and is not waited for yet does not."""
    return (_stat(process) or "Z")[0] not in "ZX"


def machine_cpu_seconds() -> tuple[float, float]:
    """Busy and idle time of all CPUs so far (proc(5), ``/proc/stat``); waiting for a disk is idle."""
    with open("/proc/stat") as lines:
        ticks = [int(field) for field in lines.readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / _TICKS_PER_SECOND, idle / _TICKS_PER_SECOND


def _cpu_seconds(process: int) -> float:
    """utime, stime, cutime and cstime."""
    fields = _stat(process)
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_SECOND if fields else 0.0


def _stat(process: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the third on (the second may hold spaces); empty when it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
