"""Who is connected to whom, and which piece comes over each connection at the moment, each way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.simulate.members import Members

Indexes = NDArray[np.int64]

_FIRST = 1024


class Links:
    """Two links for each connection, one each way: number 2k and 2k + 1.

    Attributes:
        source, target: members. piece: -1 while nothing comes.
        is_open: until one of the two is gone.
        is_served: the source still answers; one that was switched off does not, and nobody knows it yet.
    """

    def __init__(self, members: Members) -> None:
        self._members = members
        self.count = 0
        self.source, self.target, self.piece = (np.full(_FIRST, -1, np.int64) for _ in range(3))
        self.is_open, self.is_served = np.zeros(_FIRST, np.bool_), np.zeros(_FIRST, np.bool_)
        self._of = np.full((len(members), 24), -1, np.int64)
        self.degree = np.zeros(len(members), np.int64)

    @property
    def coming(self) -> Indexes:
        """Links over which something is asked for."""
        return np.flatnonzero(self.piece[: self.count] >= 0)

    def connect(self, ones: Indexes, others: Indexes) -> Indexes:
        """Connects pairs that are not connected yet. Returns the new links of both ways."""
        low, high = np.minimum(ones, others), np.maximum(ones, others)
        keys = np.unique(low * len(self._members) + high)
        low, high = np.divmod(keys, len(self._members))
        mine = self._of[low]
        is_known = ((mine >= 0) & self.is_open[mine] & (self.target[mine] == high[:, None])).any(1)
        is_new = ~is_known & (low != high)
        low, high = low[is_new], high[is_new]
        if not len(low):
            return np.empty(0, np.int64)
        new = np.arange(self.count, self.count + 2 * len(low))
        self._grow(self.count + len(new))
        self.source[new[::2]], self.target[new[::2]] = low, high
        self.source[new[1::2]], self.target[new[1::2]] = high, low
        self.is_open[new] = self.is_served[new] = True
        self.count += len(new)
        self._append(self.source[new], new)
        self._count_copies(new, 1)
        return new

    def of(self, members: Indexes) -> tuple[Indexes, NDArray[np.bool_]]:
        """Links by which each member gives, a row each, and which of them there are."""
        widest = int(self.degree[members].max(initial=0))
        rows = self._of[members, :widest]
        return rows, (rows >= 0) & self.is_open[rows]

    def close(self, links: Indexes) -> Indexes:
        """Both ways of them. Returns those by which something came: it is to be asked for elsewhere."""
        links = np.unique(np.concatenate([links, links ^ 1]))
        links = links[self.is_open[links]]
        self._count_copies(links, -1)
        self.is_open[links] = False
        broken = links[self.piece[links] >= 0]
        self._members.stop_asking(self.target[broken], self.piece[broken])
        self.piece[broken] = -1
        return broken

    def _count_copies(self, links: Indexes, change: int) -> None:
        has_some = links[self._members.have_count[self.source[links]] > 0]
        targets, rows = self.target[has_some], self._members.has[self.source[has_some]].astype(np.uint16)
        (np.add if change > 0 else np.subtract).at(self._members.copies, targets, rows)

    def _append(self, sources: Indexes, links: Indexes) -> None:
        order = np.argsort(sources, kind="stable")
        sources, links = sources[order], links[order]
        first = np.searchsorted(sources, sources)
        at = self.degree[sources] + np.arange(len(sources)) - first
        if (widest := int(at.max()) + 1) > self._of.shape[1]:
            more = np.full((len(self._members), 2 * widest - self._of.shape[1]), -1, np.int64)
            self._of = np.concatenate([self._of, more], 1)
        self._of[sources, at] = links
        self.degree += np.bincount(sources, minlength=len(self._members))

    def _grow(self, wanted: int) -> None:
        if wanted <= len(self.source):
            return
        room = 2 * wanted
        self.source, self.target, self.piece = (
            np.concatenate([kept, np.full(room - len(kept), -1, np.int64)])
            for kept in (self.source, self.target, self.piece)
        )
        self.is_open, self.is_served = (
            np.concatenate([kept, np.zeros(room - len(kept), np.bool_)]) for kept in (self.is_open, self.is_served)
        )
