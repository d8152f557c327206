"""The peers of a site in Redis, for sites with several trackers; the only file that imports it.

A swarm is one hash for each scope (rack, zone, site) and kind (seed, partial): a peer's compact endpoint → when it was
last seen and where it stands. ``HRANDFIELD`` draws from them; what has expired is dropped when it is drawn, and a
swarm that nobody announces any more expires as a whole.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis import asyncio as redis
from redis.exceptions import RedisError

from imagedist.errors import InputError, OverloadedError, SourceError
from seeder.tracker.announce import Announce, Endpoint
from seeder.tracker.peers import MAX_PEERS_PER_HOST, SITE, Counts, Peer, Place

_ANSWER_SECONDS = 2.0
_SEEN = struct.Struct("!d")
_REPEATED = 5
"""A peer announces three times within its life, once more soon after it began, and when it is complete."""


class PeersInRedis:
    """Clocks of the trackers must agree to within seconds.

    Args:
        url: ``redis://[:password@]host[:port][/database]``, or ``rediss://``, ``unix://``.
        site: sites may share one Redis.
        life_seconds: a peer is forgotten that long after its last announce.

    Raises:
        InputError: the URL is not one. The methods raise SourceError: Redis does not answer.
    """

    def __init__(self, url: str, site: str, life_seconds: float, *, clock: Callable[[], float] = time.time) -> None:
        try:
            self._redis = redis.Redis.from_url(
                url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS
            )
        except ValueError as error:
            raise InputError(f"bad value for tracker.peers: {error}; expected redis://host:port/database") from error
        self._prefix = f"imagedist:{site}:peers:"
        self._life_seconds = life_seconds
        self._clock = clock
        self._of_host: Counter[bytes] = Counter()
        self._counted_since = clock()

    async def candidates(self, infohash: bytes, place: Place, *, seeds: bool, count: int) -> Sequence[Peer]:
        keys = [
            (self._key(infohash, scope, is_seed), is_seed, count if scope == SITE else count // 2)
            for scope in place.scopes()
            for is_seed in ((False, True) if seeds else (False,))
        ]
        pipeline = self._redis.pipeline(transaction=False)
        for key, _, wanted in keys:
            pipeline.hrandfield(key, max(1, wanted), withvalues=True)
        answers = await self._ask(pipeline.execute())
        oldest = self._clock() - self._life_seconds
        found: dict[bytes, Peer] = {}
        expired: list[tuple[str, bytes]] = []
        for (key, is_seed, _), drawn in zip(keys, answers, strict=True):
            for compact, kept in zip(drawn[::2], drawn[1::2], strict=True):
                seen_at, standing = _unpack(kept)
                if seen_at < oldest:
                    expired.append((key, compact))
                else:
                    found[compact] = Peer(Endpoint(compact), standing, is_seed, seen_at)
        if expired:
            pipeline = self._redis.pipeline(transaction=False)
            for key, compact in expired:
                pipeline.hdel(key, compact)
            await self._ask(pipeline.execute())
        return tuple(found.values())

    async def counts(self, infohash: bytes) -> Counts:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hlen(self._key(infohash, SITE, True))
        pipeline.hlen(self._key(infohash, SITE, False))
        pipeline.get(self._completed(infohash))
        seeds, partials, completed = await self._ask(pipeline.execute())
        return Counts(seeds, partials, int(completed or 0))

    def check_room(self, announce: Announce) -> None:
        now = self._clock()
        if now - self._counted_since > self._life_seconds:
            self._of_host.clear()
            self._counted_since = now
        self._of_host[announce.peer.host] += 1
        if self._of_host[announce.peer.host] > _REPEATED * MAX_PEERS_PER_HOST:
            raise OverloadedError(f"too many torrents announced by one host: at most {MAX_PEERS_PER_HOST}")

    async def admit(self, announce: Announce, place: Place) -> None:
        kept = _SEEN.pack(self._clock()) + f"{place.zone}\n{place.rack}".encode()
        expiry_seconds = int(self._life_seconds) + 1
        pipeline = self._redis.pipeline(transaction=False)
        for scope in place.scopes():
            pipeline.hdel(self._key(announce.infohash, scope, not announce.is_seed), announce.peer.compact)
            key = self._key(announce.infohash, scope, announce.is_seed)
            pipeline.hset(key, announce.peer.compact, kept)
            pipeline.expire(key, expiry_seconds)
        if announce.is_completed:
            pipeline.incr(self._completed(announce.infohash))
        pipeline.expire(self._completed(announce.infohash), expiry_seconds)
        await self._ask(pipeline.execute())

    async def remove(self, announce: Announce, place: Place) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for scope in place.scopes():
            for is_seed in (True, False):
                pipeline.hdel(self._key(announce.infohash, scope, is_seed), announce.peer.compact)
        await self._ask(pipeline.execute())

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, infohash: bytes, scope: Place, is_seed: bool) -> str:
        kind = "seeds" if is_seed else "partials"
        return f"{self._prefix}{infohash.hex()}:{kind}:{scope.zone}:{scope.rack}"

    def _completed(self, infohash: bytes) -> str:
        return f"{self._prefix}{infohash.hex()}:completed"

    @staticmethod
    async def _ask(asked: Awaitable[Any]) -> Any:
        try:
            return await asked
        except (RedisError, OSError) as error:
            raise SourceError(f"the peers in Redis cannot be asked: {error}; check tracker.peers") from error


def _unpack(kept: bytes) -> tuple[float, Place]:
    zone, _, rack = kept[_SEEN.size :].decode(errors="replace").partition("\n")
    return _SEEN.unpack_from(kept)[0], Place(zone, rack)
