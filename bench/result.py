"""What a benchmark found, finished or not: the one JSON shape, which ``report`` and ``compare`` read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    computed_field,
    model_validator,
)

from bench import statistics
from imagedist.errors import InputError, storage_error

FORMAT = 3
"""Of the file; ``Result.format`` says so."""

_LINE_ENDS = re.compile(r"[\t\r\n]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]")


def _printable(text: str) -> str:
    """What a program said, with colours in it, must neither steer a terminal nor break a picture."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _LINE_ENDS.sub(" ", text))


Text = Annotated[str, AfterValidator(_printable)]
"""One line that is shown."""


class _Model(BaseModel):
    """JSON has neither infinity nor NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    told: ClassVar[frozenset[str]] = frozenset()
    """What the file says for its readers and we reckon again."""

    @model_validator(mode="before")
    @classmethod
    def _without_told(cls, values: Any) -> Any:
        if not cls.told or not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name not in cls.told}


class Machine(_Model):
    """What figures depend on."""

    processor: Text
    cpus: NonNegativeInt
    """Those this process may use."""
    memory_bytes: NonNegativeInt
    kernel: Text
    store_file_system: Text
    cgroup_limits: dict[Text, Text]
    """Of the benchmark's own cgroup; empty where there are none."""


class ImageFacts(_Model):
    name: Text
    manifest_digest: Text
    layers: NonNegativeInt
    compressed_bytes: NonNegativeInt


class Run(_Model):
    """One cold run.

    Attributes:
        seconds: from the start of the client to its end; where ``syncfs`` is timed, to the return of that.
        cpu_seconds: of the client, its daemon and their children; the registry's is apart. None: not measured.
        memory_bytes: the most at one time: anonymous memory of the same processes, and what their ramdisk held.
        stored_bytes: on the file system of the store afterwards, compressed blobs and unpacked layers.
        written_bytes: given to the store's disk until ``syncfs`` returned, journal and what was removed again in it;
            known where the store has a file system of its own.
        figures: what else was measured, units in the names.
    """

    round: int
    seconds: NonNegativeFloat
    cpu_seconds: NonNegativeFloat | None = None
    registry_cpu_seconds: NonNegativeFloat | None = None
    memory_bytes: NonNegativeFloat | None = None
    stored_bytes: NonNegativeFloat | None = None
    written_bytes: NonNegativeFloat | None = None
    figures: dict[Text, float] = {}


class Contestant(_Model):
    """One way of doing the job. A peer that cannot run says why, and has no figures.

    Attributes:
        labels: where it stands in a chart, such as ``{"series": "docker", "layers": 8}``.
        summary: what all its runs together say, title → value, for a table of its own.
    """

    told = frozenset({"median_seconds", "spread"})

    name: Text
    labels: dict[Text, int | Text] = {}
    runs: tuple[Run, ...] = ()
    not_run: Text | None = None
    summary: dict[Text, float] = {}

    @property
    def seconds(self) -> tuple[float, ...]:
        return tuple(run.seconds for run in self.runs)

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def median_seconds(self) -> float | None:
        return statistics.median(self.seconds)

    def median_cost(
        self, name: Literal["cpu_seconds", "registry_cpu_seconds", "memory_bytes", "stored_bytes", "written_bytes"]
    ) -> float | None:
        """Of the runs that know it."""
        return statistics.median([cost for run in self.runs if (cost := getattr(run, name)) is not None])

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def spread(self) -> float:
        return statistics.spread(self.seconds)

    def figure(self, name: str) -> float | None:
        """The median of one extra figure."""
        return statistics.median([run.figures[name] for run in self.runs if name in run.figures])


class Comparison(_Model):
    """How many times longer ``slower`` took than ``faster``: medians of pairs run in the same round."""

    faster: Text
    slower: Text
    ratios: tuple[float, ...]
    median: float
    low: float
    high: float


_AIM = re.compile(r"at (most|least) ([0-9.]+)$")


class Verdict(_Model):
    """A figure the benchmark exists for: what, how much, and what was aimed at in words."""

    what: Text
    value: float
    unit: Text
    aim: Text

    @property
    def is_met(self) -> bool | None:
        """None: the aim is none that a number meets."""
        if not (words := _AIM.match(self.aim)):
            return None
        return self.value <= float(words[2]) if words[1] == "most" else self.value >= float(words[2])


class Result(_Model):
    """One benchmark on one machine, or several (``all``) one after the other.

    Attributes:
        command: the command line that measures it again.
        started: ISO 8601, UTC.
        partial: it had not ended when this was written; ``stopped`` says why, if that was known.
        parts: the benchmarks that ``all`` ran, each a result of its own.
    """

    told = frozenset({"noisy"})

    format: Literal[3] = 3
    benchmark: Text
    command: Text = ""
    started: Text
    partial: bool = False
    stopped: Text = ""
    machine: Machine
    versions: dict[Text, Text]
    image: ImageFacts
    settings: dict[Text, Text]
    contestants: tuple[Contestant, ...]
    comparisons: tuple[Comparison, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    parts: tuple[Result, ...] = ()

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def noisy(self) -> tuple[str, ...]:
        """Rows whose runs differ by more than ``statistics.NOISY_SPREAD``."""
        return tuple(row.name for row in self.contestants if row.spread > statistics.NOISY_SPREAD)

    @property
    def is_busy(self) -> bool:
        """Whether other programs ran when it began."""
        with contextlib.suppress(ValueError):
            return float(self.settings.get("load_at_start", 0)) > self.machine.cpus / 2
        return False

    @property
    def benchmarks(self) -> tuple[Result, ...]:
        """Its parts, or itself; both where parts failed, which is told in rows of its own."""
        below = tuple(one for part in self.parts for one in part.benchmarks)
        return (self, *below) if self.contestants or not self.parts else below

    def contestant(self, name: str) -> Contestant | None:
        return next((contestant for contestant in self.contestants if contestant.name == name), None)


Keep = Callable[[Result], None]
"""Told what is known so far, after every row."""


def forget(result: Result) -> None:
    """For those who only want the end."""


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
        InputError: not there, or not one of this format. StorageError: unreadable.
    """
    try:
        return Result.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"no result {path}: expected a file that a benchmark wrote with --json") from error
    except OSError as error:
        raise storage_error(f"read the result {path}", error) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is no benchmark result of format {FORMAT}: {where}: {first['msg']}") from error


def save(result: Result, path: Path) -> None:
    """Writes a result aside and renames it.

    Raises:
        StorageError: no space or no permission.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        aside.rename(path)
    except OSError as error:
        raise storage_error(f"write the result {path}", error) from error
    finally:  # an interrupted one leaves nothing either
        with contextlib.suppress(OSError):
            aside.unlink()
