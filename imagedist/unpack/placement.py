"""Where unpacking may run: CPUs, niceness, I/O class, and a cgroup v2 of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from imagedist.errors import StorageError, storage_error

IoClass = Literal["none", "best-effort", "idle"]

_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13
_IO_PRIORITIES = {"best-effort": 2 << _IOPRIO_CLASS_SHIFT | 7, "idle": 3 << _IOPRIO_CLASS_SHIFT}
"""linux/ioprio.h; best effort at its lowest level."""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_PERIOD_MICROSECONDS = 100_000
_MARK = "user.imagedist"
"""An extended attribute of the cgroups that we made."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a configuration says of the workers. The defaults change nothing.

    Attributes:
        cpus: the CPUs they may run on; None: where this process may.
        nice: added to the niceness.
        io_class: ``idle``: the disk when nobody else wants it; ``best-effort``: last among equals; ``none``: as it is.
            Only schedulers that know priorities (BFQ) heed it.
        cgroup: a directory of cgroup v2, made by ``Cgroup.prepare``.
    """

    cpus: frozenset[int] | None = None
    nice: int = 0
    io_class: IoClass = "none"
    cgroup: Path | None = None

    def to_argument(self) -> str:
        """For the command line of a worker; ``parse`` reads it."""
        plain = asdict(self) | {"cpus": sorted(self.cpus or ()), "cgroup": str(self.cgroup or "")}
        return json.dumps(plain)

    @classmethod
    def parse(cls, argument: str) -> Placement:
        plain = json.loads(argument)
        cgroup = Path(plain["cgroup"]) if plain["cgroup"] else None
        return cls(frozenset(plain["cpus"]) or None, plain["nice"], plain["io_class"], cgroup)

    def apply_to_process(self) -> None:
        """Puts this process and whatever it starts there, before it starts anything.

        Raises:
            StorageError: the kernel refuses.
        """
        if self.cgroup is not None:
            try:
                (self.cgroup / "cgroup.procs").write_text("0")
            except OSError as error:
                raise storage_error(f"join cgroup {self.cgroup}", error) from error
        self.apply_to_thread()

    def apply_to_thread(self) -> None:
        """CPUs, niceness and I/O class belong to threads: puts the calling one there."""
        try:
            if self.nice:
                os.nice(self.nice)
            if self.cpus:
                os.sched_setaffinity(0, self.cpus)
            if self.io_class != "none":
                _set_io_priority(_IO_PRIORITIES[self.io_class])
        except OSError as error:
            raise storage_error(f"place unpacking on {self}", error) from error

    def confine_thread(self) -> None:
        """Puts the calling thread on these CPUs, and no more: a thread of low priority that holds the GIL would hold up
        the others of its process.

        What the kernel refuses now (``check`` passed: the CPUs were taken away since) is left out: a pool whose threads
        cannot begin takes tasks and never does them.
        """
        with contextlib.suppress(StorageError):
            Placement(self.cpus).apply_to_thread()

    def check(self) -> None:
        """Tries it in a thread of its own, so that a bad one is told before any worker starts. Raises StorageError."""
        from concurrent.futures import ThreadPoolExecutor  # here: a worker, too, imports this file

        with ThreadPoolExecutor(1) as thread:
            thread.submit(self.apply_to_thread).result()

    def __str__(self) -> str:
        cpus = ",".join(map(str, sorted(self.cpus or ()))) or "any"
        return f"CPUs {cpus}, nice {self.nice}, I/O class {self.io_class}"


ANYWHERE = Placement()


def _set_io_priority(priority: int) -> None:
    machine = os.uname().machine
    number = _IOPRIO_SET.get(machine)
    if number is None:
        raise StorageError(f"cannot set an I/O class on {machine}: use io_class = none")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, priority) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A cgroup v2 for the workers, and what they may use in it.

    Staged tars are not charged here: a page of the ramdisk belongs to the cgroup that wrote it first, the puller's.

    Attributes:
        name: relative to the mount, ``imagedist.slice/unpack``.
        cpu_max: CPUs' worth of time, 1.5 for instance; None: no limit.
        memory_max_bytes: of the workers' memory and of the pages that they write; None: no limit.
    """

    name: str
    cpu_max: float | None = None
    memory_max_bytes: int | None = None

    def prepare(self, mount: Path | None = None) -> Path:
        """Makes it and sets its limits; an existing one is used.

        Args:
            mount: of cgroup v2; None: found in mountinfo.

        Returns:
            Its directory, for ``Placement.cgroup``.

        Raises:
            StorageError: there is no cgroup v2, it lacks a controller, or this process may not.
        """
        root = mount or _mount()
        directory = root / self.name
        wanted = {"cpu": self.cpu_max, "memory": self.memory_max_bytes}
        controllers = [controller for controller, limit in wanted.items() if limit is not None]
        try:
            there = (root / "cgroup.controllers").read_text().split()
            for controller in controllers:
                if controller not in there:
                    raise StorageError(
                        f"cannot limit cgroup {self.name}: cgroup v2 at {root} has no {controller} controller (version "
                        "1 holds it); boot with systemd.unified_cgroup_hierarchy=1, or set no cpu_max and memory_max"
                    )
            _make(directory)
            for parent in reversed([path for path in directory.parents if path.is_relative_to(root)]):
                for controller in controllers:
                    (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            if self.cpu_max is not None:
                quota = int(self.cpu_max * _PERIOD_MICROSECONDS)
                (directory / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")
            if self.memory_max_bytes is not None:
                (directory / "memory.max").write_text(str(self.memory_max_bytes))
            if not os.access(directory / "cgroup.procs", os.W_OK):
                raise StorageError(f"cannot use cgroup {directory}: this user may not add processes; delegate it")
        except OSError as error:
            raise storage_error(f"use cgroup {self.name} of {root}", error) from error
        return directory


def remove_cgroup(directory: Path) -> None:
    """Removes it unless another process still uses it, or an administrator made it; the directories above stay."""
    with contextlib.suppress(OSError):
        os.getxattr(directory, _MARK)
        directory.rmdir()


def _make(directory: Path) -> None:
    """Marked as ours, so that whoever comes after a kill may remove it. Raises OSError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir()
    except FileExistsError:
        return
    with contextlib.suppress(OSError):  # before Linux 5.7: it stays
        os.setxattr(directory, _MARK, b"1")


def _mount() -> Path:
    """Where cgroup v2 is mounted, by mountinfo(5): at /sys/fs/cgroup, or beside version 1 (hybrid)."""
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            if right.split()[0] == "cgroup2":
                return Path(left.split()[4].encode("ascii", "backslashreplace").decode("unicode_escape"))
    raise StorageError("cannot use a cgroup: cgroup v2 is not mounted on this machine; leave out [unpack] cgroup")
