"""Bursts as rows: times of all nodes and rounds pooled, bytes by the image's, and what they are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.burst import Burst
from bench.bursts import BY_IMAGEDIST, STRAIGHT
from bench.result import Contestant, Run, Verdict
from bench.statistics import median, percentile

PLAIN = "a plain download"
_CPU_BOUND_SHARE = 0.2
"""With less of the CPUs' time idle, nodes wait for the CPU now and then, and the times are this machine's."""
_SOURCES = ("peer", "seeder", "webseed", "proxy")


@dataclass
class Bursts:
    """Of one number of nodes. ``series``: who brings them the image."""

    count: int
    bursts: list[Burst] = field(default_factory=list)
    series: str = BY_IMAGEDIST

    @property
    def is_straight(self) -> bool:
        return self.series == STRAIGHT

    @property
    def is_ours(self) -> bool:
        return self.series == BY_IMAGEDIST

    @property
    def name(self) -> str:
        nodes = "1 node" if self.count == 1 else f"{self.count} nodes"
        return nodes if self.is_ours else f"{nodes}, {'straight' if self.is_straight else self.series}"

    @property
    def labels(self) -> dict[str, int | str]:
        return {"series": self.series, "nodes": self.count}

    @property
    def seconds(self) -> list[float]:
        """Of every node in every round."""
        return [one.seconds for burst in self.bursts for one in burst.pulled]

    @property
    def idle_share(self) -> float:
        idle = sum(burst.idle_seconds for burst in self.bursts)
        return idle / (idle + sum(burst.busy_seconds for burst in self.bursts))


def plain_row(plain: Sequence[float]) -> Contestant:
    runs = tuple(Run(round=number, seconds=seconds) for number, seconds in enumerate(plain))
    return Contestant(name=PLAIN, runs=runs)


def row_of(row: Bursts, ideal_seconds: float, image_bytes: int) -> Contestant:
    """Times of all nodes and rounds pooled; bytes are means."""
    ratios = [seconds / ideal_seconds for seconds in row.seconds]
    received = sum((burst.received_bytes for burst in row.bursts), Counter[str]())
    every_byte = len(row.bursts) * image_bytes
    summary = {f"p{percent}": percentile(ratios, percent) for percent in (50, 90, 99)}
    summary["max"] = max(ratios)
    summary["first byte s"] = median([one.first_byte_seconds for burst in row.bursts for one in burst.pulled]) or 0.0
    summary["site sent"] = sum(burst.site_bytes for burst in row.bursts) / every_byte
    summary["upstream sent"] = sum(burst.upstream_bytes for burst in row.bursts) / every_byte
    if row.is_ours or row.is_straight:  # others' agents do not tell
        summary |= {f"% {source}": 100 * received[source] / (row.count * every_byte) for source in _SOURCES}
    if not row.is_straight:  # its nodes only read: no agent and no site works for them
        summary["CPU-s a node"] = sum(burst.cpu_seconds for burst in row.bursts) / (row.count * len(row.bursts))
        summary["MB an agent"] = sum(burst.agent_bytes for burst in row.bursts) / len(row.bursts) / 1e6
    summary["% CPU idle"] = 100 * row.idle_share
    if again := sum(one.asked_again for burst in row.bursts for one in burst.pulled):
        summary["asked again"] = again / len(row.bursts)
    runs = tuple(_run(number, burst, row.is_straight) for number, burst in enumerate(row.bursts))
    return Contestant(name=row.name, labels=row.labels, runs=runs, summary=summary)


def _run(number: int, burst: Burst, is_straight: bool) -> Run:
    figures: dict[str, float] = {
        "site_bytes": burst.site_bytes,
        "upstream_bytes": burst.upstream_bytes,
        "busy_seconds": burst.busy_seconds,
        "idle_seconds": burst.idle_seconds,
        "agent_bytes": burst.agent_bytes,
    }
    figures |= {f"node_{index}_seconds": one.seconds for index, one in enumerate(burst.pulled)}
    figures |= {f"{source}_bytes": float(count) for source, count in burst.received_bytes.items()}
    cpu_seconds = None if is_straight else burst.cpu_seconds
    return Run(round=number, seconds=burst.seconds, cpu_seconds=cpu_seconds, figures=figures)


def verdicts_of(rows: Sequence[Bursts], ideal_seconds: float, image_bytes: int) -> tuple[Verdict, ...]:
    """What the most nodes took."""
    fewest, most = min(rows, key=lambda row: row.count), max(rows, key=lambda row: row.count)
    last = row_of(most, ideal_seconds, image_bytes).summary
    ratio = (median([one.seconds for one in most.bursts]) or 0.0) / (
        median([one.seconds for one in fewest.bursts]) or 1.0
    )
    found = [
        Verdict(what=f"time for all: {most.name} ÷ {fewest.name}", value=ratio, unit="×", aim="at most 1.25"),
        *(
            Verdict(what=f"{most.name}: {what} ÷ {PLAIN}", value=last[what], unit="×", aim=f"at most {aim}")
            for what, aim in (("p50", 1.15), ("p99", 1.25), ("max", 1.35))
        ),
        Verdict(what=f"{most.name}: site sent ÷ image", value=last["site sent"], unit="×", aim="at most 2.5"),
        Verdict(
            what=f"{most.name}: upstream sent ÷ image, headers in it",
            value=last["upstream sent"],
            unit="×",
            aim="1.00 and headers",
        ),
    ]
    found += [
        Verdict(
            what=f"CPU-bound: {row.name} left of the CPUs' time idle; the times are this machine's, not the swarm's",
            value=100 * row.idle_share,
            unit="%",
            aim="",
        )
        for row in rows
        if row.idle_share < _CPU_BOUND_SHARE
    ]
    return tuple(found)


def against(ours: Sequence[Bursts], others: Sequence[Bursts]) -> Iterator[Verdict]:
    """What the most nodes took by somebody else, in times of ours."""
    most = max(ours, key=lambda row: row.count)
    for row in others:
        if row.count == most.count and not row.is_straight:
            for percent, what in ((50, "p50"), (100, "max")):
                ratio = percentile(row.seconds, percent) / percentile(most.seconds, percent)
                yield Verdict(what=f"{row.name}: {what} ÷ imagedist's", value=ratio, unit="×", aim="for comparison")
