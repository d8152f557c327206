"""Registry to ready root filesystem on one node: our strategies beside the runtimes of this machine, cold stores."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.statistics import Result, Row, machine
from imagedist.demo.image import NAME, build
from imagedist.errors import ImagedistError

_RUN_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Way:
    """One command that pulls ``{image}`` into the empty directory ``{store}``."""

    name: str
    program: str
    command: tuple[str, ...]
    needs_root: bool = False


_IMAGEDIST = ("-m", "imagedist", "pull", "--no-agent", "--plain-http", "{image}", "--root", "{store}", "--json")
_PODMAN = ("--root", "{store}/root", "--runroot", "{store}/run", "--storage-driver", "overlay")

WAYS = (
    Way("imagedist, parallel", sys.executable, _IMAGEDIST),
    Way("imagedist, serial", sys.executable, (*_IMAGEDIST, "--strategy", "serial")),
    Way("podman", "podman", (*_PODMAN, "pull", "--quiet", "--tls-verify=false", "{image}"), needs_root=True),
)


def run(directory: Path, size_bytes: int, rounds: int) -> Result:
    """Measures every way, round by round in turn, so that a noisy moment hits all alike.

    Args:
        directory: for image and stores; on the file system that is to be measured.

    Raises:
        ImagedistError: one of our own commands failed, or the registry did not start.
    """
    built = build(directory / "image", size_bytes=size_bytes)
    seconds: dict[str, list[float]] = {way.name: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way.name: [] for way in WAYS}
    not_run = {way.name: reason for way in WAYS if (reason := _cannot(way))}
    with _registry(built.layout) as address:
        image = f"{address}/{NAME}"
        for _ in range(rounds):
            for way in WAYS:
                if way.name in not_run:
                    continue
                took = _once(way, image, directory / "store")
                if isinstance(took, str):
                    not_run[way.name] = took
                else:
                    seconds[way.name].append(took[0])
                    cpu[way.name].append(took[1])
    rows = tuple(
        Row(
            name=way.name,
            seconds=tuple(seconds[way.name]),
            cpu_seconds=tuple(cpu[way.name]),
            not_run=not_run.get(way.name),
        )
        for way in WAYS
    )
    facts: dict[str, int | str] = {
        "name": NAME,
        "layers": len(built.image.layers),
        "compressed_bytes": built.image.size_bytes,
    }
    settings = {"rounds": str(rounds), "directory": str(directory), "stores": "cold", "registry": "loopback, uncapped"}
    return Result(benchmark="unpack", machine=machine(), image=facts, settings=settings, rows=rows)


def _cannot(way: Way) -> str | None:
    if not shutil.which(way.program):
        return "not installed"
    if way.needs_root and os.geteuid() != 0:
        return "needs root"
    return None


def _once(way: Way, image: str, store: Path) -> tuple[float, float] | str:
    """Seconds and CPU-seconds of one run, or why the peer could not do it."""
    store.mkdir(parents=True)
    try:
        command = [part.format(image=image, store=store) for part in way.command]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        done = subprocess.run(
            [way.program, *command], capture_output=True, text=True, timeout=_RUN_SECONDS, check=False
        )
        took = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        shutil.rmtree(store, ignore_errors=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        if way.program == sys.executable:
            raise ImagedistError(f"{way.name} failed: {reason}")
        return reason
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def _registry(layout: Path) -> Iterator[str]:
    arguments = ["--layout", str(layout), "--listen", "127.0.0.1:0", "--name", NAME]
    command = [sys.executable, "-m", "imagedist.demo.registry", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stderr
            address = process.stdout.readline().strip()  # it says so once it listens
            if not address:
                raise ImagedistError(f"the benchmark's registry did not start: {process.stderr.read().strip()}")
            yield address
        finally:
            process.terminate()
