"""The tracker: introduces the peers of a torrent to each other (BEP 3, 7, 23, 48). In memory, bounded, forgetful.

Peers come back within one interval, so nothing is kept on disk: after a restart the swarms fill again by themselves.
"""

from __future__ import annotations

import ipaddress
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from aiohttp import web

from imagedist.config import Address
from imagedist.errors import InputError, OverloadedError
from imagedist.metrics import PEERS
from imagedist.swarm import bencode

MAX_TORRENTS = 20_000
MAX_PEERS = 200_000
"""Over all torrents, about 60 MB."""

MAX_PEERS_PER_HOST = 5_000
"""Over all torrents, too: one node announces each of its blobs, but cannot fill the tracker with what it invents."""

MAX_HANDED_OUT = 30
"""Peers in one answer at most. Bounds a swarm's degree: 12-30 connections were enough for 48 nodes."""

_MAX_SCRAPED = 100
_MIN_INTERVAL_SECONDS = 5
_MISSED_ANNOUNCES = 3
"""A peer is forgotten after this many intervals without an announce."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer listens, in the compact form: 4 or 16 bytes of address, 2 of port."""

    compact: bytes

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return cls((mapped or address).packed + port.to_bytes(2, "big"))

    @property
    def host(self) -> bytes:
        return self.compact[:-2]

    @property
    def is_v4(self) -> bool:
        return len(self.compact) == 6

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.compact[:-2]).is_loopback

    def at(self, host: Endpoint) -> Endpoint:
        """The same port at another host."""
        return Endpoint(host.compact[:-2] + self.compact[-2:])


@dataclass(frozen=True, slots=True)
class Announce:
    """One announce as the tracker sees it.

    Attributes:
        infohash: 20 bytes; a v2 infohash comes truncated (BEP 52).
        peer: the connection's address with the announced port; ``&ip=`` is ignored, nobody speaks for another.
        reached: the address of ours that the peer connected to (its port does not matter).
        wanted: peers asked for, already bounded.
    """

    infohash: bytes
    peer: Endpoint
    reached: Endpoint
    is_seed: bool
    is_stopped: bool
    is_completed: bool
    wanted: int

    @classmethod
    def parse(cls, query: str, peer_host: str, reached_host: str) -> Announce:
        """Reads the raw query string of ``GET /announce``.

        Raises:
            InputError: a parameter is missing or malformed; names it.
        """
        parameters = {key: value for key, _, value in (pair.partition("=") for pair in query.split("&"))}
        infohash = unquote_to_bytes(parameters.get("info_hash", ""))
        if len(infohash) != 20:
            raise InputError("info_hash: expected 20 bytes (a v2 infohash truncated)")
        port = _number(parameters, "port", None, 65535)
        if port == 0:
            raise InputError("port: expected 1 to 65535")
        event = parameters.get("event", "")
        return cls(
            infohash=infohash,
            peer=Endpoint.of(peer_host, port),
            reached=Endpoint.of(reached_host, 0),
            is_seed=_number(parameters, "left", 1, 1 << 63) == 0,
            is_stopped=event == "stopped",
            is_completed=event == "completed",
            wanted=min(_number(parameters, "numwant", MAX_HANDED_OUT, 1 << 31), MAX_HANDED_OUT),
        )


def _number(parameters: dict[str, str], name: str, default: int | None, largest: int) -> int:
    text = parameters.get(name, "")
    if not text and default is not None:
        return default
    if text == "-1" and name == "numwant":  # "as many as you like", as some clients say it
        return MAX_HANDED_OUT
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > largest:
        raise InputError(f"{name}: expected a number up to {largest}")
    return int(text)


@dataclass(slots=True)
class _Peer:
    is_seed: bool
    seen_at: float


@dataclass(slots=True)
class _Swarm:
    """Peers in the order of their last announce, so that the expired ones are in front."""

    peers: dict[Endpoint, _Peer] = field(default_factory=dict)
    seeds: int = 0
    completed: int = 0


class Tracker:
    """The swarms of a site. Pure state: no sockets, the clock and the dice are given.

    Args:
        interval_seconds: how often peers announce.
        bittorrent: where the site's own seeder listens. An unspecified host stands for whichever address of ours
            a peer reached us by: that one is routed, while 127.0.0.1 would mislead it.
        is_seeding: whether the site's own seeder has the torrent of this short infohash. It never announces.
    """

    def __init__(
        self,
        interval_seconds: int,
        bittorrent: Address,
        is_seeding: Callable[[bytes], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        dice: random.Random | None = None,
    ) -> None:
        self._interval_seconds = interval_seconds
        self.seeder_listens_at(bittorrent)
        self._is_seeding = is_seeding
        self._clock = clock
        self._dice = dice or random.Random()
        self._swarms: dict[bytes, _Swarm] = {}
        self._swept_at = clock()
        self._of_host: Counter[bytes] = Counter()
        self.peers = 0

    def seeder_listens_at(self, bittorrent: Address) -> None:
        """Where the site's own seeder really listens, once port 0 has become a port."""
        self._own = Endpoint.of(bittorrent.host, bittorrent.port)
        self._own_is_anywhere = ipaddress.ip_address(bittorrent.host).is_unspecified

    def __repr__(self) -> str:
        return f"<Tracker of {len(self._swarms)} torrents, {self.peers} peers>"

    def answer(self, announce: Announce) -> bytes:
        """The bencoded answer. The peer itself becomes known to others only by ``admit``, after it was sent:
        a peer that others dial before its own announce was answered wastes their connections (kraken 162).

        Raises:
            OverloadedError: no room for another torrent or peer.
        """
        self._forget_expired(announce.infohash)
        swarm = self._swarms.get(announce.infohash)
        is_new = not announce.is_stopped and (swarm is None or announce.peer not in swarm.peers)
        is_full = self.peers >= MAX_PEERS or (swarm is None and len(self._swarms) >= MAX_TORRENTS)
        if is_new and is_full:
            raise OverloadedError("the tracker is full; try again later")
        if is_new and self._of_host[announce.peer.host] >= MAX_PEERS_PER_HOST:
            raise OverloadedError(f"too many torrents announced by one host: at most {MAX_PEERS_PER_HOST}")
        peers = [] if announce.is_stopped else self._introduce(announce, swarm)
        seeds = (swarm.seeds if swarm else 0) + self._is_seeding(announce.infohash)
        return bencode.encode(
            {
                b"complete": seeds,
                b"incomplete": len(swarm.peers) - swarm.seeds if swarm else 0,
                # Spread over a tenth, or a site that started at once would announce at once for ever.
                b"interval": self._interval_seconds + self._dice.randint(0, self._interval_seconds // 10),
                b"min interval": min(_MIN_INTERVAL_SECONDS, self._interval_seconds),
                b"peers": b"".join(peer.compact for peer in peers if peer.is_v4),
                b"peers6": b"".join(peer.compact for peer in peers if not peer.is_v4),
            }
        )

    def admit(self, announce: Announce) -> None:
        """Remembers the peer, or forgets one that stopped."""
        swarm = self._swarms.get(announce.infohash)
        if swarm:
            self._forget(swarm, announce.peer)
        if announce.is_stopped:
            if swarm and not swarm.peers:
                del self._swarms[announce.infohash]
            return
        swarm = self._swarms.setdefault(announce.infohash, _Swarm())
        swarm.peers[announce.peer] = _Peer(announce.is_seed, self._clock())
        swarm.seeds += announce.is_seed
        swarm.completed += announce.is_completed
        self._of_host[announce.peer.host] += 1
        self.peers += 1

    def scrape(self, infohashes: list[bytes]) -> bytes:
        """The bencoded counts of the torrents named (BEP 48); unknown ones are left out."""
        files: dict[bytes, bencode.Value] = {}
        for infohash in infohashes:
            self._forget_expired(infohash)
            swarm = self._swarms.get(infohash, _Swarm())
            is_seeding = self._is_seeding(infohash)
            if swarm.peers or is_seeding:
                files[infohash] = {
                    b"complete": swarm.seeds + is_seeding,
                    b"downloaded": swarm.completed,
                    b"incomplete": len(swarm.peers) - swarm.seeds,
                }
        return bencode.encode({b"files": files})

    def _introduce(self, announce: Announce, swarm: _Swarm | None) -> list[Endpoint]:
        """The site's seeder for who still needs it, and a random sample of the others."""
        found: list[Endpoint] = []
        own = self._own.at(announce.reached) if self._own_is_anywhere else self._own
        if not announce.is_seed and self._is_seeding(announce.infohash) and own.is_v4 == self._own.is_v4:
            found.append(own)
        if swarm is None or announce.wanted == 0:
            return found[: announce.wanted]
        # Two seeds have nothing to tell each other.
        known = [peer for peer, state in swarm.peers.items() if not (announce.is_seed and state.is_seed)]
        for peer in self._dice.sample(known, min(len(known), announce.wanted)):
            if peer == announce.peer:
                continue
            if peer.is_loopback and not announce.peer.is_loopback:
                # A peer on this very host: to others it is where they reached us.
                if peer.is_v4 != announce.reached.is_v4:
                    continue
                peer = peer.at(announce.reached)
            found.append(peer)
        return found[: announce.wanted]

    def _forget_expired(self, infohash: bytes) -> None:
        now = self._clock()
        if now - self._swept_at > self._interval_seconds:
            self._swept_at = now
            for each in tuple(self._swarms):
                self._expire(each, now)
            PEERS.set(self.peers)
        else:
            self._expire(infohash, now)

    def _expire(self, infohash: bytes, now: float) -> None:
        swarm = self._swarms.get(infohash)
        if swarm is None:
            return
        oldest = now - _MISSED_ANNOUNCES * self._interval_seconds
        while swarm.peers and next(iter(swarm.peers.values())).seen_at < oldest:
            self._forget(swarm, next(iter(swarm.peers)))
        if not swarm.peers:
            del self._swarms[infohash]

    def _forget(self, swarm: _Swarm, peer: Endpoint) -> None:
        if state := swarm.peers.pop(peer, None):
            swarm.seeds -= state.is_seed
            self.peers -= 1
            self._of_host[peer.host] -= 1
            if not self._of_host[peer.host]:
                del self._of_host[peer.host]


def add_tracker_routes(app: web.Application, tracker: Tracker) -> None:
    """Adds ``GET /announce`` and ``GET /scrape``, open to every node; failures are bencoded, as BEP 3 wants them."""

    async def announce(request: web.Request) -> web.StreamResponse:
        peer, reached = _addresses(request)
        try:
            parsed = Announce.parse(request.rel_url.raw_query_string, peer, reached)
            response = _bencoded(tracker.answer(parsed))
        except (InputError, OverloadedError) as error:
            return _bencoded(bencode.encode({b"failure reason": str(error).encode()}))
        await response.prepare(request)
        await response.write_eof()
        tracker.admit(parsed)
        PEERS.set(tracker.peers)
        return response

    async def scrape(request: web.Request) -> web.Response:
        pairs = (pair.partition("=") for pair in request.rel_url.raw_query_string.split("&"))
        infohashes = [unquote_to_bytes(value) for key, _, value in pairs if key == "info_hash"]
        if not infohashes or len(infohashes) > _MAX_SCRAPED:
            reason = f"info_hash: expected 1 to {_MAX_SCRAPED} of them"
            return _bencoded(bencode.encode({b"failure reason": reason.encode()}))
        return _bencoded(tracker.scrape(infohashes))

    app.add_routes([web.get("/announce", announce), web.get("/scrape", scrape)])


def _addresses(request: web.Request) -> tuple[str, str]:
    """The hosts at both ends of the connection. Forwarded headers are not believed."""
    peer, reached = (
        request.transport.get_extra_info(name) if request.transport else None for name in ("peername", "sockname")
    )
    if not isinstance(peer, tuple) or not isinstance(reached, tuple):
        raise web.HTTPBadRequest(text="announces come over TCP")
    return str(peer[0]), str(reached[0])


def _bencoded(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="text/plain")
