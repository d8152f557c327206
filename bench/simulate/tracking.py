"""The site's tracker in the model: the project's own class, asked by simulated announces, on a clock of the model's."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from bench.simulate.measured import ANNOUNCE_SECONDS
from imagedist.config import Address
from imagedist.swarm import bencode
from seeder.tracker import PeersInMemory, Tracker
from seeder.tracker.announce import Announce, Endpoint

T = TypeVar("T")

_PORT = (6882).to_bytes(2, "big")
_SEEDER = Address("172.16.0.1", 6881)
_REACHED = Endpoint.of(_SEEDER.host, 0)
_MISSED = 3
"""Announces; then a peer is forgotten (seeder/tracker)."""
_FIRST_BYTE = b"\x0a"
"""Node n of the model is 10.0.0.0 + n."""


class Tracking:
    """
    Args:
        blobs: how many swarms there are.
        clock: seconds.
        per_second: announces that one tracker answers.
        wanted: peers that a node asks for.

    Attributes:
        answered: announces so far.
        busy_until: when those that came so far are answered.
    """

    def __init__(
        self, blobs: int, clock: Callable[[], float], per_second: float, wanted: int, dice: random.Random
    ) -> None:
        self._infohashes = [hashlib.sha256(f"blob {blob}".encode()).digest()[:20] for blob in range(blobs)]
        self._per_second = per_second
        self._wanted = wanted
        self._clock = clock
        interval = int(ANNOUNCE_SECONDS)
        peers = PeersInMemory(_MISSED * interval, clock=clock, dice=dice)
        self._tracker = Tracker(interval, _SEEDER, lambda infohash: True, peers, dice=dice)
        self._waiting: deque[tuple[float, int, int, bool]] = deque()
        self.answered = 0
        self.longest_wait_seconds = 0.0
        self.busy_until = 0.0

    def announce(self, blob: int, node: int, *, is_seed: bool) -> None:
        """Waits for its turn."""
        now = self._clock()
        self.busy_until = max(self.busy_until, now) + 1 / self._per_second
        self.longest_wait_seconds = max(self.longest_wait_seconds, self.busy_until - now)
        self._waiting.append((self.busy_until, blob, node, is_seed))

    def answers(self) -> list[tuple[int, int, list[int]]]:
        """Blob, node and the nodes that it is introduced to, of those whose turn it was until now."""
        found = []
        while self._waiting and self._waiting[0][0] <= self._clock():
            _, blob, node, is_seed = self._waiting.popleft()
            found.append((blob, node, self.answer(blob, node, is_seed=is_seed)))
        return found

    def answer(self, blob: int, node: int, *, is_seed: bool) -> list[int]:
        """At once. The node is known to others afterwards."""
        announce = self._announce(blob, node, is_seed=is_seed, wanted=self._wanted)
        answer = cast(dict[bytes, bytes], bencode.decode(_at_once(self._tracker.answer(announce))))
        _at_once(self._tracker.admit(announce))
        self.answered += 1
        peers = answer[b"peers"]
        return [
            int.from_bytes(peers[at + 1 : at + 4], "big")
            for at in range(0, len(peers), 6)
            if peers[at : at + 1] == _FIRST_BYTE
        ]

    def remember(self, blob: int, node: int) -> None:
        """A seed that announced before anything began."""
        _at_once(self._tracker.admit(self._announce(blob, node, is_seed=True, wanted=0)))

    def _announce(self, blob: int, node: int, *, is_seed: bool, wanted: int) -> Announce:
        return Announce(
            self._infohashes[blob],
            _endpoint(node),
            _REACHED,
            is_seed,
            is_stopped=False,
            is_started=False,
            is_completed=False,
            wanted=wanted,
        )

    def counts(self, blob: int) -> tuple[int, int]:
        """Seeds and incomplete peers, the site's seeder not among them."""
        counts = _at_once(self._tracker.peers.counts(self._infohashes[blob]))
        return counts.seeds, counts.partials


def _endpoint(node: int) -> Endpoint:
    return Endpoint(_FIRST_BYTE + node.to_bytes(3, "big") + _PORT)


def _at_once(asked: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing: peers in memory do not."""
    try:
        asked.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise AssertionError("peers in memory never wait")
