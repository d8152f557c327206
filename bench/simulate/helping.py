"""When a member's swarm is slow, the proxy's web seed helps: the agent's own patience, on a clock of the model's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.simulate.members import Members
from bench.simulate.streams import Streams
from bench.simulate.trading import slowness_of
from imagedist.fetch.watch import Patience
from imagedist.oci.digest import Digest
from imagedist.swarm.session import TransferStatus

Indexes = NDArray[np.int64]
Floats = NDArray[np.float64]

_DIGEST = Digest.of(b"")
_COMING_SECONDS = 1.5
"""As in imagedist/fetch/watch.py."""


class Helping:
    """
    Attributes:
        came_at: by member, when it last received a byte.
        by_peers, by_web: bytes that it received so far.
    """

    def __init__(self, members: Members, streams: Streams, clock: Callable[[], float]) -> None:
        self._members = members
        self._streams = streams
        self._clock = clock
        self._patience = Patience()
        self._looked_at = 0.0
        # Coarse pieces come later than real ones would: that is no reason for help.
        self._slowness = slowness_of(members.pieces.coarseness)
        count = len(members)
        self.came_at, self.by_peers, self.by_web = np.zeros(count), np.zeros(count), np.zeros(count)
        self._since = np.full(count, np.nan)
        self._peers_before, self._web_before = np.zeros(count), np.zeros(count)
        self._nobody, self._alone, self._coming = (
            self._patience.with_nothing_from(_status(peers), is_coming=is_coming)
            for peers, is_coming in ((1, False), (0, False), (1, True))
        )

    def look(self, is_swarming: NDArray[np.bool_], is_connected: NDArray[np.bool_]) -> None:
        """
        Args:
            is_swarming: by member, whether it takes its blob by the swarm now.
            is_connected: whether it has any peer.
        """
        now = self._clock()
        if now - self._looked_at < self._patience.tick:
            return
        self._looked_at = now
        has_help = np.isfinite(self._since)
        limit = np.where(now - self.came_at < _COMING_SECONDS, self._coming, self._nobody)
        limit = np.where(is_connected, limit * self._slowness, self._alone)
        begins = np.flatnonzero(is_swarming & ~has_help & (now - self._members.moved_at >= limit))
        begins = begins[~self._streams.of(begins)]
        if len(begins):
            self._streams.begin(begins, is_web_seed=True)
            self._note(begins, now)
        held = np.flatnonzero(has_help & (now - np.nan_to_num(self._since, nan=now) >= self._patience.hold))
        peers, web = self.by_peers[held] - self._peers_before[held], self.by_web[held] - self._web_before[held]
        ends = ((peers > 0) & (peers >= web)) | ~is_swarming[held]
        self._streams.end(held[ends])
        self._since[held[ends]] = np.nan
        self._members.moved_at[held[ends]] = now
        self._note(held[~ends], now)

    def leave(self, members: Indexes) -> None:
        self._since[members] = np.nan

    def _note(self, members: Indexes, now: float) -> None:
        self._since[members] = now
        self._peers_before[members], self._web_before[members] = self.by_peers[members], self.by_web[members]


def _status(peers: int) -> TransferStatus:
    """What ``Patience`` asks of one: how many peers."""
    return TransferStatus(
        digest=_DIGEST,
        size_bytes=1,
        present_bytes=0,
        is_complete=False,
        peers=peers,
        seeds=0,
        download_rate=0,
        upload_rate=0,
        uploaded_bytes=0,
        received_bytes={},
        downloaded_bytes=0,
    )
