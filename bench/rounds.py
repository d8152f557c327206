"""Rounds of cold runs, in turn: each run a fresh store, daemons started before the clock, everything counted."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.account import Account, TreeAccount, cgroup_account, threads
from bench.contestant import Contestant, Ready
from bench.pages import touch
from bench.peaks import PEAKS_SECONDS, Peaks, held_bytes
from bench.places import Place
from bench.processes import RUN_SECONDS, environment
from bench.registry import Registry
from bench.result import Contestant as Measured
from bench.result import Run
from bench.statistics import rotated
from imagedist.errors import ImagedistError

Say = Callable[[str], None]

_TOUCHED = 6
"""Times the compressed layers: unpacked files, the node's own copy of the blobs and the site's."""
_SECONDS_BETWEEN_LOOKS = 0.1
"""At memory: a dozen processes cost 0.3 % of a CPU so."""
_WARM_UP_SECONDS = 60.0
"""For a few bytes: whoever takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one row of a table measures.

    Attributes:
        contestant: who does it.
        reference: what is pulled, in the time that counts.
        labels: see ``result.Contestant``.
        before: references pulled into the store beforehand: what is already on the node.
        watches_closely: whether peaks of memory are looked for every 10 ms, which costs a little time.
        cpus: those that client and registry may use; None: all.
        is_warmed_up: whether a pull of the tiny image goes first; it has nothing that a container could run.
    """

    name: str
    contestant: Contestant
    reference: str
    labels: Mapping[str, int | str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    watches_closely: bool = False
    cpus: Sequence[int] | None = None
    is_warmed_up: bool = True
    timeout_seconds: float = RUN_SECONDS


def measure(
    jobs: Sequence[Job],
    place: Place,
    registry: Registry,
    rounds: int,
    warm_up: str,
    say: Say,
    keep: Callable[[tuple[Measured, ...]], None] = lambda rows: None,
) -> tuple[Measured, ...]:
    """Runs every job once per round, in rotated order, after a warm-up pull of each that no figure shows.

    Args:
        warm_up: a tiny image's reference: who cannot pull that has no figures, but a reason.
        keep: told all rows as they are after each run.

    Raises:
        ImagedistError: one of our own jobs failed; a peer's failure is its row's reason.
    """
    not_run: dict[str, str] = {}
    runs: dict[str, list[Run]] = {job.name: [] for job in jobs}

    def rows() -> tuple[Measured, ...]:
        # A peer that failed once has no figures: its other runs would flatter or wrong it.
        return tuple(
            Measured(name=job.name, labels=dict(job.labels), not_run=not_run[job.name])
            if job.name in not_run
            else Measured(name=job.name, labels=dict(job.labels), runs=tuple(runs[job.name]))
            for job in jobs
        )

    tried: dict[Contestant, str | None] = {}
    for job in jobs:
        reason = job.contestant.cannot()
        if reason is None and job.is_warmed_up:
            if job.contestant not in tried:
                say(f"warm-up: {job.contestant.name}")
                first = Job(job.name, job.contestant, warm_up, timeout_seconds=_WARM_UP_SECONDS)
                failed: dict[str, str] = {}
                _attempt(first, place, registry, 0, failed)
                tried[job.contestant] = failed.get(job.name)
            reason = tried[job.contestant]
        if reason is not None:
            not_run[job.name] = reason
    for number in range(rounds):
        for job in rotated(jobs, number):
            if job.name in not_run:
                continue
            say(f"round {number + 1} of {rounds}: {job.name}")
            run = _attempt(job, place, registry, number, not_run)
            if run is not None:
                runs[job.name].append(run)
            keep(rows())
    return rows()


def _attempt(job: Job, place: Place, registry: Registry, number: int, not_run: dict[str, str]) -> Run | None:
    try:
        return cold_run(job, place, registry, number)
    except ImagedistError as error:
        if job.contestant.is_ours:
            raise
        not_run[job.name] = str(error)
        return None


def cold_run(job: Job, place: Place, registry: Registry, number: int) -> Run:
    """One run into a fresh store.

    Raises:
        ImagedistError: a daemon did not start, or the pull failed.
    """
    with (
        _account(registry) as account,
        place.fresh() as store,
        _narrowed(job.cpus, registry),
        job.contestant.ready(store, account, job.reference.partition("/")[0]) as ready,
    ):
        for reference in job.before:
            _prepare(ready, reference, account, job.timeout_seconds)
            place.settle()
        touch(_TOUCHED * registry.sizes_bytes.get(job.reference, 0))
        cpu, registry_cpu = account.cpu_seconds(), registry.account.cpu_seconds()
        site_cpu = ready.site.cpu_seconds() if ready.site else 0.0
        written = place.written_bytes()
        started = time.perf_counter()
        with Peaks(account, ready.ramdisk, PEAKS_SECONDS if job.watches_closely else _SECONDS_BETWEEN_LOOKS) as peaks:
            said = _pull(ready, job.reference, account, job.timeout_seconds)
            place.settle()
            seconds = time.perf_counter() - started
        cpu, registry_cpu = account.cpu_seconds() - cpu, registry.account.cpu_seconds() - registry_cpu
        written_after = place.written_bytes()
        site_figures = {"site_cpu_seconds": ready.site.cpu_seconds() - site_cpu} if ready.site else {}
        return Run(
            round=number,
            seconds=seconds,
            cpu_seconds=cpu,
            registry_cpu_seconds=registry_cpu,
            memory_bytes=peaks.together_bytes or None,
            stored_bytes=held_bytes(store),
            written_bytes=None if written is None or written_after is None else written_after - written,
            figures={
                **site_figures,
                **(peaks.figures() if job.watches_closely else {}),
                **ready.figures(),
                **ready.figures_of(said),
            },
        )


def _prepare(ready: Ready, reference: str, account: Account, timeout_seconds: float) -> None:
    if ready.prepare:
        _run(ready.prepare(reference), ready, reference, account, timeout_seconds)
    else:
        _pull(ready, reference, account, timeout_seconds)


def _pull(ready: Ready, reference: str, account: Account, timeout_seconds: float) -> str:
    if ready.call:
        ready.call(reference)
    elif ready.command:
        return _run(ready.command(reference), ready, reference, account, timeout_seconds)
    return ""


def _run(command: list[str], ready: Ready, reference: str, account: Account, timeout_seconds: float) -> str:
    """What the client printed."""
    try:
        done = subprocess.run(
            account.enter(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(ready.environment),
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImagedistError(f"{Path(command[0]).name} did not pull {reference} in {timeout_seconds:.0f} s") from error
    except OSError as error:
        raise ImagedistError(f"cannot run {command[0]}: {error.strerror or error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ImagedistError(f"{Path(command[0]).name} could not pull {reference}: {last[-300:]}")
    return done.stdout


@contextmanager
def _narrowed(cpus: Sequence[int] | None, registry: Registry) -> Iterator[None]:
    """Keeps this thread, what it starts, and the registry on some CPUs while the block runs."""
    if cpus is None:
        yield
        return
    all_cpus = os.sched_getaffinity(0)
    try:
        _keep_on(cpus, registry)
        yield
    finally:
        _keep_on(all_cpus, registry)


def _keep_on(cpus: Iterable[int], registry: Registry) -> None:
    os.sched_setaffinity(0, cpus)
    for thread in (thread for process in registry.account.processes() for thread in threads(process)):
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(thread, cpus)


@contextmanager
def _account(registry: Registry) -> Iterator[Account]:
    with cgroup_account() as cgroup:
        yield cgroup or TreeAccount(others=(registry.account,))
