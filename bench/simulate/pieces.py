"""The pieces of each blob, by the project's own rule, made coarser where there would be too many to reckon with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagedist.swarm.torrent import piece_length

_MOST_CELLS = 4_000_000
"""Pieces of all members together: a 20,000-node run stays within a minute and some hundred megabytes."""
_FEWEST = 64


@dataclass(frozen=True)
class Pieces:
    """
    Attributes:
        count: of each blob.
        length: bytes; the last piece is shorter.
        real_count: without coarsening.
    """

    size_bytes: int
    count: int
    length: int
    real_count: int

    @property
    def sizes(self) -> NDArray[np.float64]:
        sizes = np.full(self.count, float(self.length))
        sizes[-1] = self.size_bytes - (self.count - 1) * self.length
        return sizes

    @property
    def coarseness(self) -> float:
        """Real pieces in one of the model's."""
        return self.real_count / self.count


def pieces_of(size_bytes: int, members: int, most: int | None = None) -> Pieces:
    """
    Args:
        size_bytes: of one blob.
        members: of all blobs together.
        most: pieces of a blob. None: as many as the members allow.
    """
    real = -(-size_bytes // piece_length(size_bytes))
    count = min(real, most or max(_FEWEST, _MOST_CELLS // members))
    length = -(-size_bytes // count)
    if count == real:
        length = piece_length(size_bytes)
    count = -(-size_bytes // length)
    return Pieces(size_bytes, count, length, real)
