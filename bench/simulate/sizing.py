"""What a site of so many nodes needs: seeders, the tracker's cores, memory, the line of the site's host."""

from __future__ import annotations

from dataclasses import dataclass

from bench.simulate.measured import (
    ANNOUNCE_SECONDS,
    ANNOUNCES_PER_SECOND,
    COUNTED_HEADERS,
    HEADERS,
    PEER_BYTES,
    SEEDER_CONNECTIONS,
    UPLOAD_BYTES_PER_CPU_SECOND,
)
from bench.simulate.outcome import Outcome
from bench.simulate.scenario import Scenario
from imagedist.fetch.watch import Patience

_SPARE = 2
"""So that one seeder may die; each of them is a tracker, too."""


@dataclass(frozen=True)
class Size:
    """
    Attributes:
        seeders: two at least. More do not share announces: nodes announce to every one of them.
        tracker_cores: of each seeder, for the announces of nodes at rest.
        burst_seconds: nodes should begin over so many seconds; sooner, and one core answers announces so late that
            nodes take the blob by HTTP meanwhile (``swarm_stalled``).
        seeder_cores: of each, for what it sends.
        memory_bytes: of the peers in each tracker.
        site_rate: bytes per second that the site's hosts send in the burst, on average, each packet's headers in them.
        connected_share: of the nodes that a seeder has room for at once; the others begin by their neighbours alone.
    """

    seeders: int
    tracker_cores: float
    burst_seconds: float
    seeder_cores: float
    memory_bytes: float
    site_rate: float
    connected_share: float


def size_of(scenario: Scenario, outcome: Outcome, torrents: int) -> Size:
    """
    Args:
        torrents: that each node seeds at rest.
    """
    of_site = -(-scenario.nodes // scenario.sites)
    members = of_site * scenario.layers
    seconds = max(outcome.percentile(99), 1e-9)
    rate = HEADERS / COUNTED_HEADERS * outcome.site_bytes / scenario.sites / seconds
    seeders = max(_SPARE, scenario.seeders)
    return Size(
        seeders=seeders,
        tracker_cores=of_site * torrents / ANNOUNCE_SECONDS / ANNOUNCES_PER_SECOND,
        burst_seconds=max(0.0, members / ANNOUNCES_PER_SECOND - Patience().stalled),
        seeder_cores=rate / seeders / UPLOAD_BYTES_PER_CPU_SECOND,
        memory_bytes=of_site * torrents * PEER_BYTES,
        site_rate=rate,
        connected_share=min(1.0, SEEDER_CONNECTIONS * seeders / (min(scenario.replicas, seeders) * members)),
    )


def summary_of(size: Size) -> dict[str, float]:
    """Titles with units, for a table."""
    return {
        "seeders": size.seeders,
        "tracker cores": size.tracker_cores,
        "spread s": size.burst_seconds,
        "seeder cores": size.seeder_cores,
        "tracker MB": size.memory_bytes / 1e6,
        "site Mbit/s": size.site_rate * 8 / 1e6,
        "% connected": 100 * size.connected_share,
    }
