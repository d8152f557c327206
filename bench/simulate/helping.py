"""When a member's swarm is slow, the proxy's web seed helps: the agent's own patience, on a clock of the model's."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.simulate.measured import TRACKER_SECONDS
from bench.simulate.members import Members
from bench.simulate.streams import Streams
from bench.simulate.trading import slowness_of
from imagedist.fetch.watch import _COMING_SECONDS, Patience
from imagedist.oci.digest import Digest
from imagedist.swarm.session import TransferStatus

Indexes = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]

_DIGEST = Digest.of(b"")


class Helping:
    """
    Attributes:
        came_at: by member, when it last received a byte.
        by_peers, by_web: bytes that it received so far.
        is_introduced: a tracker has answered it; then it knows the site's seeder at least.
    """

    def __init__(self, members: Members, streams: Streams, nodes: int, clock: Callable[[], float]) -> None:
        self._members = members
        self._streams = streams
        self._nodes = nodes
        self._clock = clock
        self._patience = Patience()
        self._looked_at = 0.0
        # Coarse pieces come later than real ones would: that is no reason for help.
        self._slowness = slowness_of(members.pieces.coarseness)
        count = len(members)
        self.came_at = np.full(count, -np.inf)
        self.by_peers, self.by_web = np.zeros(count), np.zeros(count)
        self.is_introduced = np.zeros(count, np.bool_)
        self._since = np.full(count, np.nan)
        self._peers_before, self._web_before = np.zeros(count), np.zeros(count)
        self._limits = _limits(self._patience)

    def look(self, is_swarming: Bits, is_connected: Bits, joined_at: Floats) -> None:
        """
        Args:
            is_swarming: by member, whether it takes its blob by the swarm now.
            is_connected: whether it has any peer.
            joined_at: when it first asked the tracker.
        """
        now = self._clock()
        if now - self._looked_at < self._patience.tick:
            return
        self._looked_at = now
        has_help = np.isfinite(self._since)
        is_alone = ~is_connected & ~self.is_introduced & (now - joined_at >= TRACKER_SECONDS)
        is_coming = now - self.came_at < _COMING_SECONDS
        limit = self._limits[is_connected * 1, is_alone * 1, is_coming * 1, self._is_busy(is_coming) * 1]
        limit = np.where(is_connected, limit * self._slowness, limit)
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
        self._since[members], self.is_introduced[members] = np.nan, False

    def _is_busy(self, is_coming: Bits) -> Bits:
        """Whether other blobs come to the member's node."""
        by_blob = is_coming.reshape(-1, self._nodes)
        return np.asarray(by_blob.sum(0) - by_blob > 0).ravel()

    def _note(self, members: Indexes, now: float) -> None:
        self._since[members] = now
        self._peers_before[members], self._web_before[members] = self.by_peers[members], self.by_web[members]


def _limits(patience: Patience) -> Floats:
    """What ``Patience`` says in each case: whether a member has peers, is alone, gets bytes, and its node others."""
    limits = np.empty((2, 2, 2, 2))
    for case in itertools.product((False, True), repeat=4):
        has_peers, is_alone, is_coming, is_busy = case
        status = _status(peers=int(has_peers), known=int(not is_alone))
        limits[tuple(map(int, case))] = patience.with_nothing_from(status, is_coming=is_coming, is_busy=is_busy)
    return limits


def _status(peers: int, known: int) -> TransferStatus:
    """What ``Patience`` asks of one: how many peers it has, and knows of. Nobody is alone who was not introduced yet;
    that is the same here as one who knows somebody."""
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
        known_peers=known,
    )
