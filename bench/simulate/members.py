"""Which pieces each member has, lacks, and has asked for. A member is one node's part in one blob's swarm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.simulate.pieces import Pieces

Indexes = NDArray[np.int64]
Bits = NDArray[np.bool_]

_ROWS = 4096
"""Looked at together, so that what is compared stays in a CPU's cache."""
_ONE = np.uint16(1)
_FULL_SECONDS = np.inf


class Members:
    """
    Args:
        count: of all blobs together.
        pieces: of each blob; all blobs of an image have as many.

    Attributes:
        has, lacks: by member and piece; ``lacks`` only what is asked of nobody yet.
        asked: from how many it comes at the moment.
        left: bytes of a piece that are still to come.
        copies: of a piece among the member's neighbours, for rarest first.
        done_at: seconds; infinite until it has everything.
        moved_at: when its last piece became whole.
    """

    def __init__(self, count: int, pieces: Pieces, dice: np.random.Generator) -> None:
        self.pieces = pieces
        shape = count, pieces.count
        self.has = np.zeros(shape, np.bool_)
        self.lacks = np.ones(shape, np.bool_)
        self.asked = np.zeros(shape, np.uint8)
        self.left = np.broadcast_to(pieces.sizes.astype(np.float32), shape).copy()
        self.copies = np.zeros(shape, np.uint16)
        self.have_count = np.zeros(count, np.int64)
        self.lack_count = np.full(count, pieces.count, np.int64)
        self.done_at = np.full(count, _FULL_SECONDS)
        self.moved_at = np.zeros(count)
        self._dice = dice

    def __len__(self) -> int:
        return len(self.have_count)

    @property
    def is_done(self) -> Bits:
        return np.equal(self.have_count, self.pieces.count)

    def take(self, members: Indexes, pieces: Indexes, bytes_of: NDArray[np.float64]) -> None:
        """So many bytes of these pieces came. Pairs may come twice."""
        keys = members * self.pieces.count + pieces
        # Flat and of one type: the 25th part of the time that numpy takes otherwise.
        np.subtract.at(self.left.reshape(-1), keys, bytes_of.astype(np.float32))

    def heard(self, members: Indexes, pieces: Indexes) -> None:
        """A neighbour of each has the piece now. Pairs may come twice."""
        np.add.at(self.copies.reshape(-1), members * self.pieces.count + pieces, np.uint16(1))

    def fill(self, members: Indexes) -> None:
        """They have had everything all along."""
        self.has[members], self.lacks[members], self.left[members] = True, False, 0.0
        self.have_count[members], self.lack_count[members] = self.pieces.count, 0
        self.done_at[members] = 0.0

    def clear(self, members: Indexes) -> None:
        """They begin anew, with nothing."""
        self.has[members], self.lacks[members], self.asked[members], self.copies[members] = False, True, 0, 0
        self.left[members] = self.pieces.sizes
        self.have_count[members], self.lack_count[members] = 0, self.pieces.count
        self.done_at[members] = _FULL_SECONDS

    def ask(self, members: Indexes, pieces: Indexes) -> None:
        """Each pair once; what is asked for already comes from one more."""
        self.lack_count[:] -= np.bincount(members[self.lacks[members, pieces]], minlength=len(self))
        self.lacks[members, pieces] = False
        self.asked[members, pieces] += 1

    def stop_asking(self, members: Indexes, pieces: Indexes) -> None:
        """Somebody will not bring it after all; what came meanwhile is passed over. Pairs may come twice."""
        is_missing = ~self.has[members, pieces]
        members, pieces = members[is_missing], pieces[is_missing]
        keys = members * self.pieces.count + pieces
        np.subtract.at(self.asked.reshape(-1), keys, np.uint8(1))
        keys = np.unique(keys)
        members, pieces = np.divmod(keys, self.pieces.count)
        is_free = ~self.has[members, pieces] & (self.asked[members, pieces] == 0) & ~self.lacks[members, pieces]
        self.lacks[members[is_free], pieces[is_free]] = True
        self.lack_count[:] += np.bincount(members[is_free], minlength=len(self))

    def complete(self, members: Indexes, pieces: Indexes, now: float) -> None:
        """These pieces are whole now, each pair once."""
        self.lack_count[:] -= np.bincount(members[self.lacks[members, pieces]], minlength=len(self))
        self.has[members, pieces], self.lacks[members, pieces], self.asked[members, pieces] = True, False, 0
        self.have_count += np.bincount(members, minlength=len(self))
        self.moved_at[members] = now
        self.done_at[members[self.have_count[members] == self.pieces.count]] = now

    def shuffled(self, indexes: Indexes) -> Indexes:
        return self._dice.permutation(indexes)

    def rarest(self, source: Indexes | None, member: Indexes) -> Indexes:
        """For each pair the piece that the member lacks, the source has and the fewest neighbours have; -1: none.

        Args:
            source: members; None: one that has everything.
        """
        found = np.empty(len(member), np.int64)
        for start in range(0, len(member), _ROWS):
            rows = member[start : start + _ROWS]
            wanted = self.lacks[rows]
            if source is not None:
                wanted &= self.has[source[start : start + _ROWS]]
            chance = self._dice.integers(0, 256, wanted.shape, np.uint8)
            # A mask, all ones where nothing is wanted: half of the time that np.where takes.
            rank = (np.minimum(self.copies[rows], 254) << 8) | chance | (wanted.astype(np.uint16) - _ONE)
            best = rank.argmin(1)
            found[start : start + _ROWS] = np.where(wanted[np.arange(len(rows)), best], best, -1)
        return found

    def largest_coming(self, source: Indexes, member: Indexes) -> Indexes:
        """For each pair what the member waits for longest of what the source has, in bytes; -1: nothing."""
        found = np.empty(len(member), np.int64)
        for start in range(0, len(member), _ROWS):
            rows = member[start : start + _ROWS]
            coming = (self.asked[rows] > 0) & self.has[source[start : start + _ROWS]]
            left = np.where(coming, self.left[rows] / (1 + self.asked[rows]), -1.0)
            best = left.argmax(1)
            found[start : start + _ROWS] = np.where(coming[np.arange(len(rows)), best], best, -1)
        return found
