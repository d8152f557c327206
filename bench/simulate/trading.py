"""What peers ask each other for: rarest first among their neighbours; in the end what is late, from another one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bench.simulate.distinct import distinct, is_first
from bench.simulate.links import Links
from bench.simulate.measured import NEIGHBOURS
from bench.simulate.members import Members
from imagedist.swarm.torrent import BLOCK_BYTES

Indexes = NDArray[np.int64]

_NEIGHBOURHOOD = 2 * NEIGHBOURS
"""A node dials so many, and is dialled by as many."""
_FEWEST_SLOTS = 2
_ROUNDS = 4
"""Two neighbours may be about to be asked for the same piece: one of them looks for another."""


class Trading:
    """libtorrent's picker as far as it decides when pieces come: of each connected peer one piece at a time, the
    rarest among the neighbours, by chance among equals. A piece comes from one peer, until all that is missing is
    asked for (strict end game): then idle peers help with what has most to come, and half a block comes twice.

    Args:
        slots: of each member, pieces that it gives and takes at a time; None: as many as it has neighbours, as it is.
            See ``slots_of``.
    """

    def __init__(self, members: Members, links: Links, slots: int | None = None) -> None:
        self._members = members
        self._links = links
        self._slots = slots
        self._room_of_pieces = np.zeros(len(members) * members.pieces.count, np.int32)
        self._room_of_members = np.zeros(len(members), np.int32)

    def ask(self, links: Indexes) -> None:
        """Each of these, as far as they are open and idle, is asked for something, if there is anything to ask for."""
        links = self._idle(distinct(links, self._links.count))
        links = links[self._members.lack_count[self._links.target[links]] > 0]
        if self._slots is not None:
            self._ask_within(links, self._slots)
            return
        for _ in range(_ROUNDS):
            _, links = self._ask(links)

    def _ask_within(self, links: Indexes, slots: int) -> None:
        """As far as there is room at both ends."""
        gives, takes = self._under_way(self._links.coming)
        for _ in range(_ROUNDS):
            links = links[(gives[self._links.source[links]] < slots) & (takes[self._links.target[links]] < slots)]
            if not len(links):
                return
            chosen, others = self._one_each(links)
            asked, clashing = self._ask(chosen)
            more_given, more_taken = self._under_way(asked)
            gives, takes = gives + more_given, takes + more_taken
            links = np.concatenate([others, clashing])

    def _under_way(self, links: Indexes) -> tuple[Indexes, Indexes]:
        """How many of these each member gives by, and takes by."""
        count = len(self._members)
        return (
            np.bincount(self._links.source[links], minlength=count),
            np.bincount(self._links.target[links], minlength=count),
        )

    def _ask(self, links: Indexes) -> tuple[Indexes, Indexes]:
        """Returns those by which something was asked for, and those whose piece another one was asked for in the same
        moment."""
        source, target = self._links.source[links], self._links.target[links]
        pieces = self._members.rarest(source, target)
        links, target, pieces = (each[pieces >= 0] for each in (links, target, pieces))
        first = is_first(target * self._members.pieces.count + pieces, self._room_of_pieces)
        self._links.piece[links[first]] = pieces[first]
        self._members.ask(target[first], pieces[first])
        return links[first], links[~first]

    def freed(self, links: Indexes) -> Indexes:
        """A piece came over each of these. Returns all links that may be asked for something now."""
        if self._slots is None:
            return links
        given, there = self._links.of(distinct(self._links.source[links], len(self._members)))
        taken, here = self._links.of(distinct(self._links.target[links], len(self._members)))
        return np.concatenate([given[there], taken[here] ^ 1])

    def _idle(self, links: Indexes) -> Indexes:
        return links[self._links.is_open[links] & (self._links.piece[links] < 0)]

    def _one_each(self, links: Indexes) -> tuple[Indexes, Indexes]:
        """By chance, at most one for each source and each target; and the others."""
        links = self._members.shuffled(links)
        chosen = is_first(self._links.target[links], self._room_of_members)
        chosen[chosen] = is_first(self._links.source[links[chosen]], self._room_of_members)
        return links[chosen], links[~chosen]

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
        first = is_first(target * self._members.pieces.count + pieces, self._room_of_pieces)
        self.help(target[first], pieces[first])
        self._links.piece[helping[first]] = pieces[first]

    def help(self, target: Indexes, pieces: Indexes) -> None:
        """A piece that comes already comes from one more; each pair once. Both bring one block, until the second one is
        told to cancel it: half of a block came twice, on the average."""
        left = self._members.left[target, pieces]
        self._members.left[target, pieces] = left + np.minimum(left, BLOCK_BYTES) / 2
        self._members.asked[target, pieces] += 1

    def told(self, members: Indexes, pieces: Indexes) -> Indexes:
        """Members have new pieces, and say so to their neighbours. Returns links that were idle for want of these."""
        links, there = self._links.of(members)
        neighbours = self._links.target[links]
        pieces_of = np.broadcast_to(pieces[:, None], links.shape)
        self._members.heard(neighbours[there], pieces_of[there])
        is_wanted = there & (self._links.piece[links] < 0) & self._members.lacks[neighbours, pieces_of]
        return links[is_wanted]


def slots_of(coarseness: float) -> int | None:
    """How many pieces at a time keep a swarm of coarse pieces growing as quickly as one of real ones.

    A member with n slots passes a piece on to n neighbours in n pieces' time: copies grow by ln(1 + n) ÷ n in the time
    of one piece. With ``coarseness`` times as large pieces that is to be as much in the time of a real one. From four
    on not even one slot would do; two waste less of the links.
    """
    if coarseness <= 1:
        return None
    wanted = coarseness * math.log1p(_NEIGHBOURHOOD) / _NEIGHBOURHOOD
    return max(
        _FEWEST_SLOTS, *(slots for slots in range(1, _NEIGHBOURHOOD + 1) if math.log1p(slots) / slots >= wanted), 0
    )


def slowness_of(coarseness: float) -> float:
    """How many times slower the first pieces spread than real ones would."""
    slots = slots_of(coarseness)
    if slots is None:
        return 1.0
    return max(1.0, coarseness * math.log1p(_NEIGHBOURHOOD) / _NEIGHBOURHOOD * slots / math.log1p(slots))
