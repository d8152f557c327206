"""What peers ask each other for: rarest first among their neighbours; in the end what is late, from another one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.simulate.links import Links
from bench.simulate.members import Members
from imagedist.swarm.torrent import BLOCK_BYTES

Indexes = NDArray[np.int64]

_ROUNDS = 4
"""Two neighbours may be about to be asked for the same piece: one of them looks for another."""


class Trading:
    """libtorrent's picker as far as it decides when pieces come: of each connected peer one piece at a time, the
    rarest among the neighbours, by chance among equals. A piece comes from one peer, until all that is missing is asked
    for (strict end game): then idle peers help with what has most to come, at the cost of a block that comes twice."""

    def __init__(self, members: Members, links: Links) -> None:
        self._members = members
        self._links = links

    def ask(self, links: Indexes) -> None:
        """Each of these, as far as they are open and idle, is asked for something, if there is anything to ask for."""
        links = np.unique(links)
        links = links[self._links.is_open[links] & (self._links.piece[links] < 0)]
        for _ in range(_ROUNDS):
            source, target = self._links.source[links], self._links.target[links]
            pieces = self._members.rarest(source, target)
            links, target, pieces = (each[pieces >= 0] for each in (links, target, pieces))
            if not len(links):
                return
            _, first = np.unique(target * self._members.pieces.count + pieces, return_index=True)
            self._links.piece[links[first]] = pieces[first]
            self._members.ask(target[first], pieces[first])
            links = np.delete(links, first)

    def end(self, members: Indexes) -> None:
        """Those of the members that lack nothing unasked let idle peers help."""
        members = members[(self._members.lack_count[members] == 0) & ~self._members.is_done[members]]
        if not len(members):
            return
        links, there = self._links.of(members)
        helping = links[there] ^ 1
        helping = helping[(self._links.piece[helping] < 0) & self._links.is_served[helping]]
        source, target = self._links.source[helping], self._links.target[helping]
        pieces = self._members.largest_coming(source, target)
        helping, target, pieces = (each[pieces >= 0] for each in (helping, target, pieces))
        _, first = np.unique(target * self._members.pieces.count + pieces, return_index=True)
        self.help(target[first], pieces[first])
        self._links.piece[helping[first]] = pieces[first]

    def help(self, target: Indexes, pieces: Indexes) -> None:
        """A piece that comes already comes from one more; each pair once."""
        left = self._members.left[target, pieces]
        self._members.left[target, pieces] = left + np.minimum(left / 2, BLOCK_BYTES)
        self._members.asked[target, pieces] += 1

    def told(self, members: Indexes, pieces: Indexes) -> Indexes:
        """Members have new pieces, and say so to their neighbours. Returns links that were idle for want of these."""
        links, there = self._links.of(members)
        neighbours = self._links.target[links]
        pieces_of = np.broadcast_to(pieces[:, None], links.shape)
        self._members.heard(neighbours[there], pieces_of[there])
        is_wanted = there & (self._links.piece[links] < 0) & self._members.lacks[neighbours, pieces_of]
        return links[is_wanted]
