"""The site's seeders as flows: which member each connection sends to at the moment, and what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.simulate.measured import RECONNECT_SECONDS
from bench.simulate.members import Members
from bench.simulate.scenario import Scenario
from bench.simulate.seeding import Connection, Seeder
from bench.simulate.trading import Trading
from imagedist.oci.digest import Digest
from registry_proxy.replicas import ranked
from seeder.uploads.offers import Part

Indexes = NDArray[np.int64]


class Hosts:
    """
    Args:
        clock: seconds.
        count_seeds: of a blob, as the tracker knows.

    Attributes:
        host, member, piece: of each flow, as ``flow`` last made them. ``at``: which one is of this host and member.
    """

    def __init__(
        self,
        scenario: Scenario,
        nodes: int,
        members: Members,
        trading: Trading,
        clock: Callable[[], float],
        count_seeds: Callable[[int], int],
    ) -> None:
        self._nodes = nodes
        self._members = members
        self._trading = trading
        self._clock = clock
        names = [f"http://seeder{number}" for number in range(scenario.seeders)]
        replicas = min(scenario.replicas, scenario.seeders)
        parts: list[dict[int, Part]] = [{} for _ in names]
        for blob in range(scenario.layers):
            order = ranked(Digest.of(b"%d" % blob), names)
            for rank, name in enumerate(order[:replicas]):
                parts[names.index(name)][blob] = Part(rank, replicas)
        self.seeders = [Seeder(members.pieces, part, scenario.copies, clock, count_seeds) for part in parts]
        self._refused: deque[tuple[float, int]] = deque()
        self._asking: dict[tuple[int, int], int] = {}
        self._flows: list[tuple[int, Connection]] = []
        self.at: dict[tuple[int, int], int] = {}
        self.host, self.member, self.piece = (np.empty(0, np.int64) for _ in range(3))
        self.is_connected = np.zeros(len(members), np.bool_)

    def connect(self, member: int) -> None:
        """To every seeder of its blob; one that has no room is tried again."""
        blob, node = divmod(member, self._nodes)
        if self._members.have_count[member] == self._members.pieces.count:
            return
        has: list[int] = np.flatnonzero(self._members.has[member]).tolist()
        taken = [seeder.connect(member, node, blob, has) for seeder in self.seeders]
        self.is_connected[member] = any(member in seeder.connections for seeder in self.seeders)
        if not all(taken):
            self._refused.append((self._clock() + RECONNECT_SECONDS, member))

    def leave(self, member: int) -> None:
        for host, seeder in enumerate(self.seeders):
            seeder.leave(member)
            self._drop(host, member)
        self.is_connected[member] = False
        self._refused = deque(one for one in self._refused if one[1] != member)

    def got(self, member: int, pieces: list[int]) -> None:
        """Whoever gave them."""
        for host, seeder in enumerate(self.seeders):
            if self._asking.get((host, member)) in pieces:
                del self._asking[host, member]
            seeder.got(member, pieces)

    def flow(self) -> None:
        """Offers what is to be offered, and says what each connection sends now."""
        now = self._clock()
        while self._refused and self._refused[0][0] <= now:
            self.connect(self._refused.popleft()[1])
        self._flows = []
        for host, seeder in enumerate(self.seeders):
            seeder.offer()
            for member, connection in seeder.sending.items():
                self._begin(host, member, connection.offered[0])
                self._flows.append((host, connection))
        self.at = {(host, one.member): number for number, (host, one) in enumerate(self._flows)}
        self.host = np.array([host for host, _ in self._flows], np.int64)
        self.member = np.array([one.member for _, one in self._flows], np.int64)
        self.piece = np.array([one.offered[0] for _, one in self._flows], np.int64)

    def sent(self, bytes_of: NDArray[np.float64]) -> None:
        """By each flow in this step."""
        for (host, connection), size_bytes in zip(self._flows, bytes_of.tolist(), strict=True):
            if size_bytes:
                self.seeders[host].sent(connection, connection.offered[0], size_bytes)

    def _begin(self, host: int, member: int, piece: int) -> None:
        if self._asking.get((host, member)) == piece:
            return
        self._asking[host, member] = piece
        one, what = np.array([member]), np.array([piece])
        if self._members.lacks[member, piece]:
            self._members.ask(one, what)
        else:
            self._trading.help(one, what)

    def _drop(self, host: int, member: int) -> None:
        piece = self._asking.pop((host, member), None)
        if piece is not None and self._members.asked[member, piece]:
            self._members.stop_asking(np.array([member]), np.array([piece]))
