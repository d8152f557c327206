"""What comes from the site's proxies by HTTP: the first wave's streams, in order, and web seeds that help."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.simulate.members import Members
from bench.simulate.trading import Trading

Indexes = NDArray[np.int64]
Bits = NDArray[np.bool_]


class Streams:
    """At most one for each member.

    Attributes:
        member, piece: piece -1: nothing left to ask for at the moment.
        is_web_seed: it takes the rarest piece; a stream takes the first one.
    """

    def __init__(self, members: Members, trading: Trading) -> None:
        self._members = members
        self._trading = trading
        self.member, self.piece = np.empty(0, np.int64), np.empty(0, np.int64)
        self.is_web_seed = np.empty(0, np.bool_)

    def begin(self, members: Indexes, *, is_web_seed: bool) -> None:
        self.member = np.append(self.member, members)
        self.piece = np.append(self.piece, np.full(len(members), -1))
        self.is_web_seed = np.append(self.is_web_seed, np.full(len(members), is_web_seed))
        self.go_on()

    def end(self, members: Indexes) -> None:
        """Bytes of a piece that came stay."""
        ends = np.isin(self.member, members)
        broken = ends & (self.piece >= 0)
        self._members.stop_asking(self.member[broken], self.piece[broken])
        self._keep(~ends)

    def of(self, members: Indexes) -> Bits:
        """Which of these have one."""
        return np.isin(members, self.member)

    def go_on(self) -> None:
        """Those that are idle take their next piece; those of members that have everything are over."""
        self._keep(~self._members.is_done[self.member])
        here = self.piece >= 0
        self.piece[here & self._members.has[self.member, np.maximum(self.piece, 0)]] = -1
        idle = np.flatnonzero(self.piece < 0)
        if not len(idle):
            return
        members = self.member[idle]
        first = self._members.lacks[members].argmax(1)
        first[self._members.lack_count[members] == 0] = -1
        web = self.is_web_seed[idle]
        first[web] = self._members.rarest(None, members[web])
        idle, members, first = (each[first >= 0] for each in (idle, members, first))
        self._members.ask(members, first)
        self.piece[idle] = first

    def _keep(self, kept: Bits) -> None:
        self.member, self.piece, self.is_web_seed = self.member[kept], self.piece[kept], self.is_web_seed[kept]

    def positions(self) -> NDArray[np.float64]:
        """Bytes of the blob before what each stream needs next."""
        pieces = np.maximum(self.piece, 0)
        came = self._members.pieces.sizes[pieces] - self._members.left[self.member, pieces]
        return np.asarray(pieces * self._members.pieces.length + came, np.float64)
