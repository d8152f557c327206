"""Runs that were measured or published, with what was known of them: what the model is held against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bench.result import Contestant, Result
from bench.simulate.measured import ACKNOWLEDGEMENTS, HEADERS, JOIN_CPU_SECONDS
from bench.simulate.scenario import NodeClass, Scenario
from imagedist.errors import InputError

_LINKS = re.compile(r"links of ([0-9.]+) Mbit/s, the site's ([0-9.]+) times as wide")
_NODES = re.compile(r"([0-9]+) nodes?")
_COMPARED = ("p50", "p90", "p99", "max", "site sent")


@dataclass(frozen=True)
class Known:
    """
    Attributes:
        figures: percentiles in units of ``unit_seconds``, and the copies that the site sent, as ``imagedist-bench
            swarm`` has them.
        rounds: that were measured; their nodes' times are pooled.
        unit_seconds: 0: of a plain download.
        aim_percent: how far off the model may be; None: what was published leaves too much open for one.
    """

    name: str
    scenario: Scenario
    figures: Mapping[str, float]
    source: str
    rounds: int = 1
    unit_seconds: float = 0.0
    aim_percent: float | None = 15.0


@dataclass(frozen=True)
class Cpus:
    """Those of a machine that ran a whole burst, in CPU-seconds of it.

    Attributes:
        own: of agents and site. busy, idle: of all, other programs' in it.
    """

    count: int
    own: float
    busy: float
    idle: float

    @property
    def left(self) -> float:
        """As many as other programs left to agents and site."""
        return self.count * (1 - max(0.0, self.busy - self.own) / (self.busy + self.idle))

    def rate(self, burst_bytes: int) -> float:
        """Bytes per second that they carry at most: so many for each CPU-second of agents and site."""
        return self.left * burst_bytes / self.own

    @property
    def join_rate(self) -> float:
        """Torrents per second that nodes can begin with."""
        return self.left / JOIN_CPU_SECONDS


def _network(nodes: int, megabits: float, own: float, busy: float, idle: float) -> Scenario:
    """The test network: two blobs of 12 MB, links of a site's host and its uplink ten times a node's, cold, 2 CPUs."""
    rate, size, cpus = megabits * 125_000, 24_000_000, Cpus(2, own, busy, idle)
    return Scenario(
        nodes=nodes,
        size=size,
        classes=(NodeClass(up=rate, down=rate),),
        site_egress=10 * rate,
        upstream=10 * rate,
        cpu_rate=cpus.rate(nodes * size),
        join_rate=cpus.join_rate,
    )


def _sessions(nodes: int, neighbours: int) -> Scenario:
    """Sessions in one process, caps of 250 kB/s of payload, the seeder's ten times that, 2 × 6 MB in the site."""
    rate = 250_000 * (HEADERS + ACKNOWLEDGEMENTS)
    return Scenario(
        nodes=nodes,
        size=12_000_000,
        classes=(NodeClass(up=rate, down=rate),),
        site_egress=2_500_000 * HEADERS,
        state="warm",
        first_wave_nodes=1,
        web_seeds=False,
        neighbours=neighbours,
    )


def _kraken() -> Scenario:
    """The limit is of payload. That of the origins is not said; the same is taken. Kraken has no web seeds."""
    rate = 300e6 * (HEADERS + ACKNOWLEDGEMENTS)
    return Scenario(
        nodes=2600,
        size=3_000_000_000,
        layers=2,
        classes=(NodeClass(up=rate, down=rate),),
        seeders=5,
        site_egress=300e6 * HEADERS,
        state="warm",
        web_seeds=False,
    )


def _kraken_measured(nodes: int, megabits: float, own: float, busy: float, idle: float) -> Scenario:
    """The test network with Kraken's programs. No web seeds, and nobody streams but one node, which brings the cold
    image. Ten connections a torrent are what a node of the model has: five that it dials, five that dial it."""
    values = {"web_seeds": False, "first_wave_nodes": 1, "first_wave_wait": 1000.0}
    return _network(nodes, megabits, own, busy, idle).model_copy(update=values)


_SWARM = "docs/swarm-benchmark.md"
_SEEDING = "docs/seeding.md"

KNOWN: tuple[Known, ...] = (
    Known(
        "1 node, 8 Mbit/s",
        _network(1, 8, 6.5, 6.5, 42.7),
        {"p50": 1.00, "p90": 1.00, "p99": 1.00, "max": 1.00, "site sent": 1.03},
        _SWARM,
        rounds=3,
    ),
    Known(
        "8 nodes, 8 Mbit/s",
        _network(8, 8, 7.1, 60.2, 2.8),
        {"p50": 1.10, "p90": 1.26, "max": 1.26, "site sent": 1.63},
        _SWARM,
    ),
    Known(
        "16 nodes, 8 Mbit/s",
        _network(16, 8, 12.0, 52.8, 12.6),
        {"p50": 1.16, "p90": 1.30, "max": 1.32, "site sent": 1.84},
        _SWARM,
    ),
    Known(
        "32 nodes, 8 Mbit/s",
        _network(32, 8, 26.0, 62.0, 7.2),
        {"p50": 1.21, "p90": 1.32, "max": 1.39, "site sent": 1.97},
        _SWARM,
    ),
    Known(
        "64 nodes, 8 Mbit/s, CPU-bound",
        _network(64, 8, 63.9, 65.5, 7.3),
        {"p50": 1.32, "p90": 1.39, "p99": 1.47, "max": 1.49, "site sent": 2.54},
        _SWARM,
        rounds=3,
    ),
    Known(
        "64 nodes, 5 Mbit/s",
        _network(64, 5, 68.9, 74.1, 35.4),
        {"p50": 1.23, "p90": 1.30, "max": 1.39, "site sent": 2.15},
        _SWARM,
    ),
    Known("32 sessions, 30 neighbours, warm", _sessions(32, 30), {"p50": 1.20, "p90": 1.21, "max": 1.21}, _SEEDING),
    Known("32 sessions, 7 neighbours, warm", _sessions(32, 7), {"p50": 1.06, "p90": 1.08, "max": 1.12}, _SEEDING),
    Known("48 sessions, 7 neighbours, warm", _sessions(48, 7), {"p50": 1.07, "p90": 1.09, "max": 1.12}, _SEEDING),
)
KRAKEN = Known(
    "Kraken, 2,600 hosts, 300 MB/s",
    _kraken(),
    {"p50": 10.0, "p99": 18.0, "p99.9": 22.0},
    "Kraken's README; when hosts began and what origins may send is not said",
    unit_seconds=1.0,
    aim_percent=None,
)
KRAKEN_MEASURED = Known(
    "Kraken 0.1.4, 32 nodes, 8 Mbit/s, pieces of 64 KiB",
    _kraken_measured(32, 8, 41.8, 47.2, 33.5),
    {"p50": 1.66, "p90": 1.68, "max": 1.68, "site sent": 6.66},
    _SWARM,
    aim_percent=None,
)


def known_of(result: Result, source: str) -> tuple[Known, ...]:
    """Every row of N nodes in a result of ``imagedist-bench swarm``, with the CPU that it had.

    Raises:
        InputError: it is of another benchmark, or says nothing of its links.
    """
    found = []
    for part in result.benchmarks:
        links = _LINKS.search(part.settings.get("registry", ""))
        if part.benchmark == "swarm" and links is not None:
            node, times = float(links[1]) * 125_000, float(links[2])
            found += [
                _known(part, row, _scenario(part, row, node, times), source)
                for row in part.contestants
                if row.summary.get("p50") and _NODES.fullmatch(row.name)
            ]
    if not found:
        raise InputError(f"{source} has no bursts of N nodes: expected a result of imagedist-bench swarm")
    return tuple(found)


def _scenario(part: Result, row: Contestant, node: float, times: float) -> Scenario:
    match = _NODES.fullmatch(row.name)
    nodes = int(match[1]) if match is not None else 1
    size, cpus = part.image.compressed_bytes, _cpus(part, row)
    return Scenario(
        nodes=nodes,
        size=size,
        layers=part.image.layers,
        classes=(NodeClass(up=node, down=node),),
        site_egress=times * node,
        upstream=times * node,
        state="warm" if "site" in part.settings else "cold",
        cpu_rate=cpus.rate(len(row.runs) * nodes * size) if cpus else None,
        join_rate=cpus.join_rate if cpus else None,
    )


def _cpus(part: Result, row: Contestant) -> Cpus | None:
    """Of all its runs together; None: not every one of them was counted."""
    if not row.runs or not all(run.figures.get("busy_seconds") and run.cpu_seconds for run in row.runs):
        return None
    own = sum(run.cpu_seconds or 0.0 for run in row.runs)
    busy, idle = (sum(run.figures.get(name, 0.0) for run in row.runs) for name in ("busy_seconds", "idle_seconds"))
    return Cpus(part.machine.cpus, own, busy, idle)


def _known(part: Result, row: Contestant, scenario: Scenario, source: str) -> Known:
    figures = {name: row.summary[name] for name in _COMPARED if name in row.summary}
    for tail in ("p90", "p99"):  # of few nodes, the last one's again
        if figures.get(tail) == figures.get("max"):
            figures.pop(tail, None)
    name = f"{row.name}, {scenario.classes[0].down / 125_000:g} Mbit/s, {source}"
    return Known(name, scenario, figures, part.started, rounds=len(row.runs))
