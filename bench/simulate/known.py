"""Runs that were measured or published, with what was known of them: what the model is held against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bench.result import Contestant, Result
from bench.simulate.measured import ACKNOWLEDGEMENTS, HEADERS
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
        unit_seconds: 0: of a plain download.
        aim_percent: how far off the model may be; None: what was published leaves too much open for one.
    """

    name: str
    scenario: Scenario
    figures: Mapping[str, float]
    source: str
    unit_seconds: float = 0.0
    aim_percent: float | None = 15.0


def _network(nodes: int, megabits: float, cpu_rate: float | None = None) -> Scenario:
    """The test network: two blobs of 12 MB, links of a site's host and its uplink ten times a node's, cold."""
    rate = megabits * 125_000
    return Scenario(
        nodes=nodes,
        size=24_000_000,
        classes=(NodeClass(up=rate, down=rate),),
        site_egress=10 * rate,
        upstream=10 * rate,
        cpu_rate=cpu_rate,
        neighbours=8,  # what agents asked for when these were measured
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


_SWARM = "docs/swarm-benchmark.md"
_SEEDING = "docs/seeding.md"

# CPU rates: cores × nodes × image ÷ CPU-seconds of the whole machine in that burst, from the same row.
KNOWN: tuple[Known, ...] = (
    Known("1 node, 8 Mbit/s", _network(1, 8), {"p50": 1.00, "max": 1.00, "site sent": 1.0}, _SWARM),
    Known(
        "16 nodes, 8 Mbit/s",
        _network(16, 8, 2 * 16 * 24e6 / 20.5),
        {"p50": 1.15, "p90": 1.22, "max": 1.23, "site sent": 1.9},
        _SWARM,
    ),
    Known(
        "64 nodes, 8 Mbit/s, CPU-bound",
        _network(64, 8, 2 * 64 * 24e6 / 66.8),
        {"p50": 1.36, "p90": 1.37, "max": 1.44},
        _SWARM,
    ),
    Known(
        "64 nodes, 5 Mbit/s, 21 % idle",
        _network(64, 5, 2 * 64 * 24e6 / 89.2),
        {"p50": 1.26, "p90": 1.33, "max": 1.40},
        _SWARM,
    ),
    Known("32 sessions, 30 neighbours", _sessions(32, 30), {"p50": 1.20, "p90": 1.21, "max": 1.21}, _SEEDING),
    Known("32 sessions, 7 neighbours", _sessions(32, 7), {"p50": 1.06, "p90": 1.08, "max": 1.12}, _SEEDING),
    Known("48 sessions, 7 neighbours", _sessions(48, 7), {"p50": 1.07, "p90": 1.09, "max": 1.12}, _SEEDING),
)
KRAKEN = Known(
    "Kraken, 2,600 hosts, 300 MB/s",
    _kraken(),
    {"p50": 10.0, "p99": 18.0, "p99.9": 22.0},
    "Kraken's README; when hosts began and what origins may send is not said",
    unit_seconds=1.0,
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
    busy = [run.figures["busy_seconds"] for run in row.runs if run.figures.get("busy_seconds")]
    size = part.image.compressed_bytes
    return Scenario(
        nodes=nodes,
        size=size,
        layers=part.image.layers,
        classes=(NodeClass(up=node, down=node),),
        site_egress=times * node,
        upstream=times * node,
        cpu_rate=part.machine.cpus * nodes * size * len(busy) / sum(busy) if busy else None,
    )


def _known(part: Result, row: Contestant, scenario: Scenario, source: str) -> Known:
    figures = {name: row.summary[name] for name in _COMPARED if name in row.summary}
    megabits = scenario.classes[0].down / 125_000
    return Known(f"{row.name}, {megabits:g} Mbit/s", scenario, figures, f"{source}, {part.started}")
