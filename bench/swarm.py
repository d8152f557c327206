"""How long N nodes of a site take for a new image, beside one plain download over such a link; what the site sends."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.bursts import BY_IMAGEDIST, STRAIGHT
from bench.directories import short_directory
from bench.machine import Start, described
from bench.preflight import check_memory, need
from bench.processes import run as run_program
from bench.result import Contestant, ImageFacts, Keep, Result, Run, Verdict
from bench.statistics import median, percentile, rotated
from bench.swarm_network import AGENT_BYTES, BLOBS, SITE_TIMES, Burst, Configuration, SwarmNetwork, swarm_network
from imagedist.service.running import raise_open_files_limit

Say = Callable[[str], None]

_CPU_BOUND_SHARE = 0.2
"""With less of the CPUs' time idle, nodes wait for the CPU now and then, and the times are this machine's."""
_PLAIN = "a plain download"
_DEFAULTS = Configuration()
_SOURCES = ("peer", "seeder", "webseed", "proxy")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything.

    Args:
        nodes: how many at once, each number as often as the others.
        image_bytes: in two blobs.
        node_bits_per_second: a node's link, each way.
        configuration: what the programs have beside their defaults.
        is_straight_too: whether as many nodes also read straight from the registry, which takes long.
    """

    nodes: Sequence[int]
    image_bytes: int
    node_bits_per_second: int
    rounds: int
    configuration: Configuration = _DEFAULTS
    is_straight_too: bool = False

    @property
    def image_seconds(self) -> float:
        return self.image_bytes * 8 / self.node_bits_per_second

    @property
    def memory_bytes(self) -> int:
        """What agents and files will take at most: registry and site keep every image, a node three."""
        images = self.rounds * len(self.nodes) * (2 if self.is_straight_too else 1)
        return max(self.nodes) * (AGENT_BYTES + 3 * self.image_bytes) + 2 * images * self.image_bytes


FULL = Scale((1, 2, 4, 8), 100_000_000, 32_000_000, 5)
QUICK = Scale((1, 2, 4), 12_000_000, 32_000_000, 2)


@dataclass
class Bursts:
    """Of one number of nodes."""

    count: int
    bursts: list[Burst] = field(default_factory=list)
    is_straight: bool = False

    @property
    def name(self) -> str:
        nodes = "1 node" if self.count == 1 else f"{self.count} nodes"
        return f"{nodes}, straight" if self.is_straight else nodes

    @property
    def labels(self) -> dict[str, int | str]:
        return {"series": STRAIGHT if self.is_straight else BY_IMAGEDIST, "nodes": self.count}

    @property
    def seconds(self) -> list[float]:
        """Of every node in every round."""
        return [one.seconds for burst in self.bursts for one in burst.pulled]

    @property
    def idle_share(self) -> float:
        idle = sum(burst.idle_seconds for burst in self.bursts)
        return idle / (idle + sum(burst.busy_seconds for burst in self.bursts))


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """A burst lasts a little more than the image needs over one link; there are ``rounds`` for each number of nodes.

    Raises:
        InputError: this machine cannot have a test network, has no docker-registry, or too little memory.
        ImagedistError: something did not start, or a node did not get everything.
    """
    check(scale)
    raise_open_files_limit()
    start = Start.now()
    rows, plain = [Bursts(count) for count in scale.nodes], list[float]()
    if scale.is_straight_too:
        rows += [Bursts(count, is_straight=True) for count in scale.nodes]
    with short_directory() as directory:
        say(f"starting a registry, a site and {max(scale.nodes)} agents")
        sizes = (max(scale.nodes), scale.node_bits_per_second, scale.image_bytes)
        with swarm_network(directory, *sizes, scale.configuration) as running:
            running.warm_up()
            for number in range(scale.rounds):
                for _ in _round(running, scale, number, rows, plain, say):
                    result = _result(scale, directory, rows, plain, start)
                    keep(result)
    return result


def _result(scale: Scale, directory: Path, rows: Sequence[Bursts], plain: Sequence[float], start: Start) -> Result:
    """Of the bursts so far."""
    ideal, rows = median(plain) or 0.0, [row for row in rows if row.bursts]
    return described(
        "swarm",
        directory,
        ImageFacts(name="random bytes", manifest_digest="", layers=BLOBS, compressed_bytes=scale.image_bytes),
        {
            "rounds": str(scale.rounds),
            "order": "rotated each round; every burst has an image of its own",
            "registry": f"links of {scale.node_bits_per_second / 1e6:g} Mbit/s, the site's {SITE_TIMES} times as wide",
            "cpu": "of the site's processes and the agents of these nodes; idle: the whole machine",
            **scale.configuration.facts(),
        },
        (_plain_row(plain), *(row_of(row, ideal, scale.image_bytes) for row in rows)),
        verdicts_of([row for row in rows if not row.is_straight], ideal, scale.image_bytes),
        {
            "libtorrent": importlib.metadata.version("libtorrent"),
            "docker-registry": run_program(["docker-registry", "--version"]).strip(),
        },
        start,
    )


def check(scale: Scale) -> None:
    """Raises InputError: this machine cannot have a test network, has no docker-registry, or too little memory."""
    need("the swarm", "docker-registry", is_network=True)
    what = f"a swarm of {max(scale.nodes)} nodes with images of {scale.image_bytes / 1e6:.0f} MB"
    check_memory(scale.memory_bytes, what, "measure fewer nodes or smaller images")


def _round(
    network: SwarmNetwork, scale: Scale, number: int, rows: Sequence[Bursts], plain: list[float], say: Say
) -> Iterator[None]:
    """Yields after each burst; the plain download is of the first image that came through the site."""
    for row in rotated(rows, number):
        say(f"round {number + 1} of {scale.rounds}: {row.name}, at least {scale.image_seconds:.0f} s")
        burst = network.burst(row.count, is_straight=row.is_straight)
        row.bursts.append(burst)
        say(f"  {burst.seconds:.2f} s for all, CPUs idle {burst.idle_share:.0%}")
        if len(plain) == number and not row.is_straight:
            say(f"round {number + 1} of {scale.rounds}: {_PLAIN}")
            plain.append(network.plain_seconds())
        if plain:
            yield


def _plain_row(plain: Sequence[float]) -> Contestant:
    runs = tuple(Run(round=number, seconds=seconds) for number, seconds in enumerate(plain))
    return Contestant(name=_PLAIN, runs=runs)


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
    summary |= {f"% {source}": 100 * received[source] / (row.count * every_byte) for source in _SOURCES}
    if not row.is_straight:  # its nodes only read: no agent and no site works for them
        summary["CPU-s a node"] = sum(burst.cpu_seconds for burst in row.bursts) / (row.count * len(row.bursts))
        summary["MB an agent"] = sum(burst.agent_bytes for burst in row.bursts) / len(row.bursts) / 1e6
    summary["% CPU idle"] = 100 * row.idle_share
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
            Verdict(what=f"{most.name}: {what} ÷ {_PLAIN}", value=last[what], unit="×", aim=f"at most {aim}")
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
