"""How many bytes may be under way to all peers together. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

_SMALLEST_BYTES = 2 << 20
_SECONDS = 1.0
"""Of what was sent lately. More at a time, and all pieces become whole late, while nobody can pass on a half."""
_SPANS, _SPAN_SECONDS = 4, 0.5
"""The quickest of the last ones counts."""


class Window:
    """As much as goes out in a second. Follows the site's own link, not the peers' latencies: a peer that gets pieces
    from others as well takes longer for ours."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spans = [0] * _SPANS
        self._current = 0

    def sent(self, size_bytes: int) -> None:
        self._advance()
        self._spans[-1] += size_bytes

    @property
    def size_bytes(self) -> float:
        self._advance()
        return max(_SMALLEST_BYTES, max(self._spans) * _SECONDS / _SPAN_SECONDS)

    def room_bytes(self, under_way_bytes: int) -> float:
        """How large the next piece may be: any, when nothing is under way."""
        return self.size_bytes - under_way_bytes if under_way_bytes else math.inf

    def _advance(self) -> None:
        current = int(self._clock() / _SPAN_SECONDS)
        for _ in range(min(current - self._current, _SPANS)):
            self._spans = [*self._spans[1:], 0]
        self._current = current
