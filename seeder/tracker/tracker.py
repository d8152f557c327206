"""The tracker: introduces the peers of a torrent to each other (BEP 3, 7, 23, 48). No sockets here."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Sequence

from imagedist.config import Address
from imagedist.errors import InputError, SourceError
from imagedist.metrics import FAILURES
from imagedist.swarm import bencode
from seeder.tracker.announce import Announce, Endpoint
from seeder.tracker.choice import choose
from seeder.tracker.peers import Counts, Peers, Place

_MIN_INTERVAL_SECONDS = 5
_SECOND_SECONDS = 6
"""Who begins comes again so soon, once, and learns of as many peers again. Few neighbours make a burst begin quickly,
but whoever has fewer than others gets less: docs/swarm-benchmark.md, "Neighbours"."""
_SECOND_PER_SECOND = 400
"""Of those, in one torrent: a tenth of a tracker's core. Thousands that begin at once come again later, or not at all:
else 20,000 nodes wait for a first neighbour behind the second ones of others."""
_SPARE_DRAWN = 9
"""So many more peers are drawn than are wanted, and those go out that were handed out least: else some nodes of a burst
have 4 neighbours and others 12. An agent wants five, of which the seeder is one."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RefusedError(InputError):
    """An announce that is well-formed but not for this tracker. ``reason``: its label in the metrics."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Tracker:
    """The swarms of a site.

    Args:
        interval_seconds: how often peers announce.
        bittorrent: where the site's own seeder listens. An unspecified host stands for whichever address of ours
            a peer reached us by: that one is routed, while 127.0.0.1 would mislead it.
        is_seeding: whether the site's own seeder has the torrent of this short infohash. It never announces.
        is_known: whether the site has, or lately had, such a torrent at all.
        place_of: where the node of this address (4 or 16 bytes) stands.
        networks: from which peers may come. None: from everywhere.
    """

    def __init__(
        self,
        interval_seconds: int,
        bittorrent: Address,
        is_seeding: Callable[[bytes], bool],
        peers: Peers,
        *,
        is_known: Callable[[bytes], bool] = lambda infohash: True,
        place_of: Callable[[bytes], Place] = lambda address: Place(),
        networks: Sequence[Network] = (),
        dice: random.Random | None = None,
    ) -> None:
        self._interval_seconds = interval_seconds
        self.seeder_listens_at(bittorrent)
        self._is_seeding = is_seeding
        self._is_known = is_known
        self._place_of = place_of
        self._networks = tuple(networks)
        self._dice = dice or random.Random()
        self.peers = peers

    def seeder_listens_at(self, bittorrent: Address) -> None:
        """Where the site's own seeder really listens, once port 0 has become a port."""
        self._own = Endpoint.of(bittorrent.host, bittorrent.port)
        self._own_is_anywhere = ipaddress.ip_address(bittorrent.host).is_unspecified

    async def answer(self, announce: Announce) -> bytes:
        """The bencoded answer. The peer itself becomes known to others only by ``admit``, after it was sent:
        a peer that others dial before its own announce was answered wastes their connections (kraken 162).

        Raises:
            RefusedError: not a torrent or a peer of this site. OverloadedError: no room for another torrent or peer.
        """
        if self._networks and not any(_address(announce.peer) in network for network in self._networks):
            raise RefusedError("peers come from the site's own networks only: see tracker.networks", "foreign")
        if not self._is_known(announce.infohash):
            raise RefusedError("no such torrent in this site; ask its proxy for the torrent first", "unknown")
        self.peers.check_room(announce)
        try:
            counts = await self.peers.counts(announce.infohash)
            introduced = [] if announce.is_stopped else await self._introduce(announce)
        except SourceError as error:  # the site's own seeder is better than nothing
            FAILURES.labels(source="peers", cause=type(error).__name__).inc()
            counts, introduced = Counts(), self._own_seeder(announce)
        return bencode.encode(
            {
                b"complete": counts.seeds + self._is_seeding(announce.infohash),
                b"incomplete": counts.partials,
                b"interval": self._interval(announce, counts.partials),
                b"min interval": min(_MIN_INTERVAL_SECONDS, self._interval_seconds),
                b"peers": b"".join(peer.compact for peer in introduced if peer.is_v4),
                b"peers6": b"".join(peer.compact for peer in introduced if not peer.is_v4),
            }
        )

    def _interval(self, announce: Announce, partials: int) -> int:
        is_beginning = announce.is_started and not announce.is_seed
        return next_announce_seconds(self._interval_seconds, self._dice, partials if is_beginning else None)

    async def admit(self, announce: Announce) -> None:
        """Remembers the peer, or forgets one that stopped."""
        place = self._place_of(announce.peer.host)
        if announce.is_stopped:
            await self.peers.remove(announce, place)
        else:
            await self.peers.admit(announce, place)

    async def scrape(self, infohashes: Sequence[bytes]) -> bytes:
        """The bencoded counts of the torrents named (BEP 48); unknown ones are left out."""
        files: dict[bytes, bencode.Value] = {}
        for infohash in infohashes:
            counts = await self.peers.counts(infohash)
            is_seeding = self._is_seeding(infohash)
            if any(counts) or is_seeding:
                files[infohash] = {
                    b"complete": counts.seeds + is_seeding,
                    b"downloaded": counts.completed,
                    b"incomplete": counts.partials,
                }
        return bencode.encode({b"files": files})

    async def _introduce(self, announce: Announce) -> list[Endpoint]:
        """The site's seeder for who still needs it, then peers; two seeds have nothing to tell each other."""
        found = self._own_seeder(announce)
        wanted = announce.wanted - len(found)
        if wanted <= 0:
            return found
        place = self._place_of(announce.peer.host)
        count = wanted + _SPARE_DRAWN
        drawn = await self.peers.candidates(announce.infohash, place, seeds=not announce.is_seed, count=count)
        for peer in choose(drawn, announce.peer, place, wanted):
            endpoint = peer.endpoint
            if endpoint.is_loopback and not announce.peer.is_loopback:
                # On this very host: to others it is where they reached us.
                if endpoint.is_v4 != announce.reached.is_v4:
                    continue
                endpoint = endpoint.at(announce.reached)
            peer.introduced += 1
            found.append(endpoint)
        return found

    def _own_seeder(self, announce: Announce) -> list[Endpoint]:
        own = self._own.at(announce.reached) if self._own_is_anywhere else self._own
        is_wanted = announce.wanted > 0 and not announce.is_seed and not announce.is_stopped
        return [own] if is_wanted and own.is_v4 == self._own.is_v4 and self._is_seeding(announce.infohash) else []


def next_announce_seconds(interval_seconds: int, dice: random.Random, beginning: int | None) -> int:
    """Spread, or a site that started at once would announce at once for ever.

    Args:
        beginning: how many others have begun, for one that begins.
    """
    if beginning is not None:
        soon = _SECOND_SECONDS + beginning // _SECOND_PER_SECOND
        if soon < interval_seconds:
            return soon + dice.randint(0, soon // 3)
    return interval_seconds + dice.randint(0, interval_seconds // 10)


def _address(peer: Endpoint) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(peer.host)
