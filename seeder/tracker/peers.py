"""Who is in a swarm: the interface, and the store in memory. ``redis.py`` has the one that trackers share."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from imagedist.errors import OverloadedError
from imagedist.metrics import PEERS
from seeder.tracker.announce import Announce, Endpoint

MAX_TORRENTS = 20_000
MAX_PEERS = 200_000
"""Over all torrents; bench/tracker.py says how much memory they are."""

MAX_PEERS_PER_HOST = 5_000
"""Over all torrents, too: one node announces each of its blobs, but cannot fill the tracker with what it invents."""


class Place(NamedTuple):
    """Where a node stands, by its labels ``zone`` and ``rack``. Empty: it did not say."""

    zone: str = ""
    rack: str = ""

    def scopes(self) -> tuple[Place, ...]:
        """From the nearest to the whole site."""
        return _scopes(self)


SITE = Place()


@lru_cache(maxsize=4096)
def _scopes(place: Place) -> tuple[Place, ...]:
    nearest = (place,) if place.rack else ()
    return (*nearest, Place(place.zone), SITE) if place.zone else (*nearest, SITE)


class Counts(NamedTuple):
    seeds: int = 0
    partials: int = 0
    completed: int = 0


@dataclass(slots=True, eq=False)
class Peer:
    """One peer of one swarm. ``introduced``: to how many it was handed out."""

    endpoint: Endpoint
    place: Place
    is_seed: bool
    seen_at: float
    introduced: int = 0


class Peers(Protocol):
    """The peers of all swarms of a site; each is in one swarm as often as it listens at several endpoints."""

    async def candidates(self, infohash: bytes, place: Place, *, seeds: bool, count: int) -> Sequence[Peer]:
        """By chance: ``count`` partial peers of the whole site and, if wanted, as many seeds, as far as there are so
        many; and half as many of the asker's zone and of its rack. Some may come twice."""

    async def counts(self, infohash: bytes) -> Counts: ...

    def check_room(self, announce: Announce) -> None:
        """
        Raises:
            OverloadedError: no room for another torrent or peer.
        """

    async def admit(self, announce: Announce, place: Place) -> None:
        """Remembers the peer as it is now."""

    async def remove(self, announce: Announce, place: Place) -> None: ...

    async def close(self) -> None: ...


class _Pool:
    """Peers of which any can be drawn or taken out in constant time."""

    __slots__ = ("_at", "_peers")

    def __init__(self) -> None:
        self._peers: list[Peer] = []
        self._at: dict[Peer, int] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: Peer) -> None:
        self._at[peer] = len(self._peers)
        self._peers.append(peer)

    def discard(self, peer: Peer) -> None:
        at = self._at.pop(peer)
        last = self._peers.pop()
        if last is not peer:
            self._peers[at] = last
            self._at[last] = at

    def draw(self, count: int, dice: random.Random) -> list[Peer]:
        peers = self._peers
        if len(peers) <= count:
            return peers
        step = len(peers) / count  # one out of each stretch: different ones, in a third of sample()'s time
        chance = dice.random
        return [peers[int((at + chance()) * step)] for at in range(count)]


@dataclass(slots=True)
class _Swarm:
    """Peers in the order of their last announce, so that the expired ones are in front."""

    peers: dict[Endpoint, Peer] = field(default_factory=dict)
    pools: dict[tuple[Place, bool], _Pool] = field(default_factory=dict)
    completed: int = 0


class PeersInMemory:
    """The peers that one tracker was told of. Peers come back within one interval, so nothing is kept on disk: after
    a restart the swarms fill again by themselves.

    Args:
        life_seconds: a peer is forgotten that long after its last announce.
    """

    def __init__(
        self, life_seconds: float, *, clock: Callable[[], float] = time.monotonic, dice: random.Random | None = None
    ) -> None:
        self._life_seconds = life_seconds
        self._clock = clock
        self._dice = dice or random.Random()
        self._swarms: dict[bytes, _Swarm] = {}
        self._swept_at = clock()
        self._of_host: Counter[bytes] = Counter()
        self.total = 0

    def __repr__(self) -> str:
        return f"<PeersInMemory: {len(self._swarms)} torrents, {self.total} peers>"

    async def candidates(self, infohash: bytes, place: Place, *, seeds: bool, count: int) -> Sequence[Peer]:
        self._forget_expired(infohash)
        swarm = self._swarms.get(infohash)
        if swarm is None:
            return ()
        found: list[Peer] = []
        for scope in place.scopes():
            for is_seed in (False, True) if seeds else (False,):
                pool = swarm.pools.get((scope, is_seed))
                if pool is not None:
                    found += pool.draw(count if scope is SITE else count // 2, self._dice)
        return found

    async def counts(self, infohash: bytes) -> Counts:
        self._forget_expired(infohash)
        swarm = self._swarms.get(infohash)
        if swarm is None:
            return Counts()
        seeds = swarm.pools.get((SITE, True), ())
        return Counts(len(seeds), len(swarm.peers) - len(seeds), swarm.completed)

    def check_room(self, announce: Announce) -> None:
        self._forget_expired(announce.infohash)
        swarm = self._swarms.get(announce.infohash)
        if announce.is_stopped or (swarm is not None and announce.peer in swarm.peers):
            return
        if self.total >= MAX_PEERS or (swarm is None and len(self._swarms) >= MAX_TORRENTS):
            raise OverloadedError("the tracker is full; try again later")
        if self._of_host[announce.peer.host] >= MAX_PEERS_PER_HOST:
            raise OverloadedError(f"too many torrents announced by one host: at most {MAX_PEERS_PER_HOST}")

    async def admit(self, announce: Announce, place: Place) -> None:
        swarm = self._swarms.setdefault(announce.infohash, _Swarm())
        known = swarm.peers.pop(announce.peer, None)
        if known is not None and known.is_seed == announce.is_seed and known.place == place:
            known.seen_at = self._clock()
            swarm.peers[announce.peer] = known  # at the end again
        else:
            peer = Peer(announce.peer, place, announce.is_seed, self._clock(), known.introduced if known else 0)
            if known is not None:
                self._leave_pools(swarm, known)
            else:
                self._of_host[announce.peer.host] += 1
                self._has(self.total + 1)
            swarm.peers[announce.peer] = peer
            for scope in place.scopes():
                swarm.pools.setdefault((scope, peer.is_seed), _Pool()).add(peer)
        swarm.completed += announce.is_completed

    async def remove(self, announce: Announce, place: Place) -> None:
        swarm = self._swarms.get(announce.infohash)
        if swarm is not None:
            self._forget(swarm, announce.peer)
            if not swarm.peers:
                del self._swarms[announce.infohash]

    async def close(self) -> None:
        self._swarms.clear()

    def _forget_expired(self, infohash: bytes) -> None:
        now = self._clock()
        if now - self._swept_at > self._life_seconds / 3:
            self._swept_at = now
            for each in tuple(self._swarms):
                self._expire(each, now)
        else:
            self._expire(infohash, now)

    def _expire(self, infohash: bytes, now: float) -> None:
        swarm = self._swarms.get(infohash)
        if swarm is None:
            return
        oldest = now - self._life_seconds
        while swarm.peers and next(iter(swarm.peers.values())).seen_at < oldest:
            self._forget(swarm, next(iter(swarm.peers)))
        if not swarm.peers:
            del self._swarms[infohash]

    def _forget(self, swarm: _Swarm, endpoint: Endpoint) -> None:
        peer = swarm.peers.pop(endpoint, None)
        if peer is None:
            return
        self._leave_pools(swarm, peer)
        self._has(self.total - 1)
        self._of_host[endpoint.host] -= 1
        if not self._of_host[endpoint.host]:
            del self._of_host[endpoint.host]

    def _has(self, total: int) -> None:
        self.total = total
        PEERS.set(total)

    @staticmethod
    def _leave_pools(swarm: _Swarm, peer: Peer) -> None:
        for scope in peer.place.scopes():
            key = scope, peer.is_seed
            pool = swarm.pools[key]
            pool.discard(peer)
            if not pool:
                del swarm.pools[key]
