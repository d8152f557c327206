"""The site's seeders in the model: the project's own offers and window, on a clock of the model's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.simulate.measured import SEEDER_CONNECTIONS
from bench.simulate.pieces import Pieces
from imagedist.oci.digest import Digest
from imagedist.swarm.torrent import TorrentFacts
from seeder.uploads.offers import Host, Offers, Pace, Part, Taker
from seeder.uploads.order import most_wanted_first
from seeder.uploads.window import Window

_TICK_SECONDS = 0.25
_COUNT_SECONDS = 1.0
"""Both as in seeder/uploads/session.py."""


@dataclass(eq=False)
class Connection:
    """One member's, to one seeder. ``offered``: pieces in the order in which they go out."""

    member: int
    node: int
    blob: int
    taker: Taker | None = None
    offered: deque[int] = field(default_factory=deque)


class Seeder:
    """One seeder process.

    Args:
        parts: of each blob that it seeds.
        count_seeds: how many nodes have all of a blob, as the tracker knows.

    Attributes:
        connections: by member. sending: those to which something is offered.
    """

    def __init__(
        self,
        pieces: Pieces,
        parts: dict[int, Part],
        copies: float,
        clock: Callable[[], float],
        count_seeds: Callable[[int], int],
    ) -> None:
        self._clock = clock
        self._count_seeds = count_seeds
        self._window = Window(clock)
        self._offers: dict[int, Offers] = {}
        for blob, part in parts.items():
            facts = TorrentFacts(Digest.of(b"%d" % blob), pieces.size_bytes, pieces.length, bytes(32))
            self._offers[blob] = Offers(facts, Pace(copies=copies), clock)
            self._offers[blob].part = part
        self._hosts: dict[int, Host] = {}
        self._ticked_at = self._counted_at = clock()
        self.connections: dict[int, Connection] = {}
        self.sending: dict[int, Connection] = {}
        self.peak_connections = 0

    @property
    def is_full(self) -> bool:
        return len(self.connections) >= SEEDER_CONNECTIONS

    def connect(self, member: int, node: int, blob: int, has: Sequence[int]) -> bool:
        """A member with these pieces comes. Returns whether there is room for it."""
        if member in self.connections or blob not in self._offers:
            return True
        if self.is_full:
            return False
        host = self._hosts.setdefault(node, Host(self._clock))
        connection = Connection(member, node, blob)

        def tell(piece: int) -> None:
            connection.offered.append(piece)
            self.sending[member] = connection

        connection.taker = self._offers[blob].join(host, has, tell)
        self.connections[member] = connection
        self.peak_connections = max(self.peak_connections, len(self.connections))
        return True

    def got(self, member: int, pieces: Sequence[int]) -> None:
        """It says that it has them now, whoever gave them. One that has everything is let go."""
        connection = self.connections.get(member)
        if connection is None or connection.taker is None:
            return
        for piece in pieces:
            if piece in connection.offered:
                connection.offered.remove(piece)
        if not connection.offered:
            self.sending.pop(member, None)
        if self._offers[connection.blob].got(connection.taker, pieces):
            del self.connections[member]
            self.sending.pop(member, None)

    def sent(self, connection: Connection, piece: int, size_bytes: int) -> None:
        self._window.sent(size_bytes)
        if connection.taker is not None:
            self._offers[connection.blob].sent(connection.taker, piece, size_bytes)

    def leave(self, member: int) -> None:
        """Its connection broke."""
        connection = self.connections.pop(member, None)
        self.sending.pop(member, None)
        if connection is not None and connection.taker is not None:
            self._offers[connection.blob].leave(connection.taker)

    def offer(self) -> None:
        """What a session does after whatever changed: see ``UploadSession._offer``."""
        now = self._clock()
        if now - self._ticked_at >= _TICK_SECONDS:
            self._ticked_at = now
            for offers in self._offers.values():
                offers.tick()
        if now - self._counted_at >= _COUNT_SECONDS:
            self._counted_at = now
            for blob, offers in self._offers.items():
                offers.seeds_elsewhere = self._count_seeds(blob)
        under_way = sum(offers.under_way_bytes for offers in self._offers.values())
        for offers in most_wanted_first(self._offers.values(), now):
            under_way -= offers.under_way_bytes
            while offers.offer(self._window.room_bytes(under_way + offers.under_way_bytes)):
                pass
            under_way += offers.under_way_bytes
