"""Bytes of blobs that came to this node, by source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from imagedist.metrics import BYTES_BY_SOURCE


class Received:
    """Attributes:
    by_source: since the start, those of ``/metrics`` included.
    """

    def __init__(self) -> None:
        self.by_source: Counter[str] = Counter()

    @property
    def total_bytes(self) -> int:
        return self.by_source.total()

    def count(self, source: str, count_bytes: int) -> None:
        if count_bytes > 0:
            BYTES_BY_SOURCE.labels(source=source).inc(count_bytes)
            self.by_source[source] += count_bytes

    def count_new(self, received: Mapping[str, int], counted: Counter[str]) -> None:
        """Adds what a transfer received since ``counted``, and notes it there."""
        for source, total in received.items():
            self.count(source, total - counted[source])
            counted[source] = total
