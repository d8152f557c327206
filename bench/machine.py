"""What figures depend on: the machine, its limits, the versions of what takes part."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.account import own_cgroup
from bench.contestant import Contestant, own_version
from bench.images import DEBIAN
from bench.places import file_system
from bench.result import Contestant as Measured
from bench.result import ImageFacts, Machine, Result, Verdict
from imagedist.demo.layout import BuiltImage

_LIBRARIES = ("isal", "zstandard", "aiohttp", "uvloop")
_LIMITS = ("cpu.max", "memory.max", "memory.high", "io.max")
_LIMITS_V1 = ("cpu/cpu.cfs_quota_us", "memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Start:
    """When a benchmark began, ISO 8601, and how many processes had been runnable over the minute before: above the
    CPUs' half its figures are not quiet ones.

    Attributes:
        cpus: that it may use on the whole; later it may confine itself to some.
    """

    at: str
    load: float
    cpus: int

    @classmethod
    def now(cls) -> Start:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(at, os.getloadavg()[0], len(os.sched_getaffinity(0)))


def described(
    benchmark: str,
    directory: Path,
    image: ImageFacts,
    settings: Mapping[str, str],
    rows: Sequence[Measured] = (),
    verdicts: Sequence[Verdict] = (),
    more_versions: Mapping[str, str] | None = None,
    start: Start | None = None,
) -> Result:
    """A result of this machine.

    Args:
        directory: on the measured file system.
        start: None: now, and how busy the machine was is not told.
    """
    load = {"load_at_start": f"{start.load:.2f}"} if start else {}
    start = start or Start.now()
    return Result(
        benchmark=benchmark,
        started=start.at,
        machine=describe_machine(directory, start.cpus),
        versions={**versions([]), **(more_versions or {})},
        image=image,
        settings={**settings, **load},
        contestants=tuple(rows),
        verdicts=tuple(verdicts),
    )


def describe_machine(store: Path, cpus: int) -> Machine:
    """This machine, of which so many CPUs are used; ``store`` is a directory on the measured file system."""
    return Machine(
        processor=_processor(),
        cpus=cpus,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        store_file_system=file_system(store.absolute()),
        cgroup_limits=_cgroup_limits(),
    )


def versions(contestants: Iterable[Contestant]) -> dict[str, str]:
    """Ours, Python's, the libraries' that decide our speed, and those of the contestants that can run."""
    found = {"imagedist": own_version(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for contestant in contestants:
        if contestant.name not in found and (version := _version(contestant)):
            found[contestant.name] = version
    return found


@cache
def _version(contestant: Contestant) -> str | None:
    return None if contestant.cannot() else contestant.version()


def describe_image(built: BuiltImage, name: str) -> ImageFacts:
    """
    Args:
        name: as it was asked for; when own files stand in for packages, the result says so.
    """
    stands_in = name.partition(",")[0] in DEBIAN and built.layout.name.startswith("own-")
    return ImageFacts(
        name=f"own files, for want of {name}" if stands_in else name,
        manifest_digest=str(built.image.manifest_digest),
        layers=len(built.image.layers),
        compressed_bytes=built.size_bytes,
    )


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _cgroup_limits() -> dict[str, str]:
    """Limits of this process's cgroup (v2), or of the root ones a container sees (v1)."""
    own = own_cgroup()
    files = {name: own / name for name in _LIMITS} if own else {}
    files |= {name.partition("/")[2]: Path("/sys/fs/cgroup") / name for name in _LIMITS_V1}
    found = {}
    for name, path in files.items():
        try:
            value = path.read_text().strip()
        except OSError:
            continue
        if value and not value.startswith(("max", "-1", "9223372036854")):
            found[name] = value
    return found
