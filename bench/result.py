"""A finished benchmark: what ``--json`` writes and ``show`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench import statistics
from imagedist.errors import InputError, storage_error


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Model):
    """What figures depend on."""

    processor: str
    cpus: int
    """Those this process may use."""
    memory_bytes: int
    kernel: str
    store_file_system: str
    cgroup_limits: dict[str, str]
    """Of the benchmark's own cgroup; empty where there are none."""


class ImageFacts(_Model):
    name: str
    manifest_digest: str
    layers: int
    compressed_bytes: int


class Run(_Model):
    """One cold run.

    Attributes:
        seconds: from the start of the client to its end; where ``syncfs`` is timed, to the return of that.
        cpu_seconds: of the client, its daemon and their children; the registry's is apart.
        figures: what else was measured, units in the names.
    """

    round: int
    seconds: float
    cpu_seconds: float
    registry_cpu_seconds: float | None = None
    figures: dict[str, float] = {}


class Contestant(_Model):
    """One way of doing the job. A peer that cannot run says why, and has no figures.

    Attributes:
        summary: what all its runs together say, title → value, for a table of its own.
    """

    name: str
    runs: tuple[Run, ...] = ()
    not_run: str | None = None
    summary: dict[str, float] = {}

    @property
    def seconds(self) -> tuple[float, ...]:
        return tuple(run.seconds for run in self.runs)

    @property
    def median_seconds(self) -> float | None:
        return statistics.median(self.seconds)

    @property
    def median_cpu_seconds(self) -> float | None:
        return statistics.median([run.cpu_seconds for run in self.runs])

    @property
    def spread(self) -> float:
        return statistics.spread(self.seconds)

    def figure(self, name: str) -> float | None:
        """The median of one extra figure."""
        return statistics.median([run.figures[name] for run in self.runs if name in run.figures])


class Comparison(_Model):
    """How many times longer ``slower`` took than ``faster``: medians of pairs run in the same round."""

    faster: str
    slower: str
    ratios: tuple[float, ...]
    median: float
    low: float
    high: float


class Verdict(_Model):
    """A figure the benchmark exists for: what, how much, and what was aimed at in words."""

    what: str
    value: float
    unit: str
    aim: str


class Result(_Model):
    format: Literal[2] = 2
    benchmark: str
    started: str
    """ISO 8601, UTC."""
    machine: Machine
    versions: dict[str, str]
    image: ImageFacts
    settings: dict[str, str]
    contestants: tuple[Contestant, ...]
    comparisons: tuple[Comparison, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @property
    def is_noisy(self) -> bool:
        return any(contestant.spread > statistics.NOISY_SPREAD for contestant in self.contestants)

    def contestant(self, name: str) -> Contestant | None:
        return next((contestant for contestant in self.contestants if contestant.name == name), None)


def comparisons(contestants: Sequence[Contestant], ours: str) -> tuple[Comparison, ...]:
    """Every other contestant against ``ours``, pair by pair."""
    by_round = {one.name: {run.round: run.seconds for run in one.runs} for one in contestants}
    found = []
    for name, seconds in by_round.items():
        ratios = statistics.pair_ratios(by_round.get(ours, {}), seconds)
        middle = statistics.median(ratios)
        if name != ours and middle is not None:
            low, high = statistics.median_interval(ratios)
            found.append(Comparison(faster=ours, slower=name, ratios=tuple(ratios), median=middle, low=low, high=high))
    return tuple(found)


def load(path: Path) -> Result:
    """Reads a saved result.

    Raises:
        InputError: not one of this format. StorageError: unreadable.
    """
    try:
        return Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise storage_error(f"read the result {path}", error) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is no benchmark result of format 2: {where}: {first['msg']}") from error


def save(result: Result, path: Path) -> None:
    """Writes a result aside and renames it.

    Raises:
        StorageError: no space or no permission.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(result.model_dump_json(indent=2) + "\n")
        aside.rename(path)
    except OSError as error:
        raise storage_error(f"write the result {path}", error) from error
