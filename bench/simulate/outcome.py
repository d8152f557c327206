"""What one run of the model says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SOURCES = ("peer", "seeder", "webseed", "proxy")


@dataclass(frozen=True)
class Outcome:
    """Of one site, or of all together.

    Attributes:
        seconds: of each node that got the image, from its own start.
        unfinished: nodes that had not got it when the run ended.
        received_bytes: of all nodes by source; bytes of the image, some twice.
        site_bytes, upstream_bytes: left the sites' hosts, and the registry, as the counters of links have them: several
            segments that the kernel passes on as one have one header.
        torrent_bytes: of ``site_bytes``, for torrents.
        announces: that each tracker answered. ``announce_wait_seconds``: the longest one waited for its turn.
        seeder_connections: of one seeder at a time, at most.
        coarseness: real pieces in one of the model's.
    """

    seconds: NDArray[np.float64]
    unfinished: int
    received_bytes: dict[str, float]
    site_bytes: float
    upstream_bytes: float
    torrent_bytes: float
    announces: int
    announce_wait_seconds: float
    seeder_connections: int
    coarseness: float
    sent_bytes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """By each node and, behind them, each host, of images; for the books to be checked."""

    def percentile(self, percent: float) -> float:
        """Nearest rank, of the nodes that got it; an unfinished one is slower than all of them.

        Returns infinity where the rank falls on an unfinished one.
        """
        count = len(self.seconds) + self.unfinished
        rank = max(1, int(np.ceil(percent / 100 * count)))
        return float(np.sort(self.seconds)[rank - 1]) if rank <= len(self.seconds) else float("inf")


def together(outcomes: list[Outcome], upstream_bytes: float) -> Outcome:
    """Of several sites as one."""
    return Outcome(
        seconds=np.concatenate([one.seconds for one in outcomes]),
        unfinished=sum(one.unfinished for one in outcomes),
        received_bytes={name: sum(one.received_bytes[name] for one in outcomes) for name in SOURCES},
        site_bytes=sum(one.site_bytes for one in outcomes),
        upstream_bytes=upstream_bytes,
        torrent_bytes=sum(one.torrent_bytes for one in outcomes),
        announces=max(one.announces for one in outcomes),
        announce_wait_seconds=max(one.announce_wait_seconds for one in outcomes),
        seeder_connections=max(one.seeder_connections for one in outcomes),
        coarseness=max(one.coarseness for one in outcomes),
        sent_bytes=np.concatenate([one.sent_bytes for one in outcomes]),
    )
