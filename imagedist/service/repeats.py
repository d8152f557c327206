"""What is said again and again is said once a minute: a fault that a thousand nodes meet must not fill the disk."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable

_QUIET_SECONDS = 60.0
_MAX_MESSAGES = 256
_VARYING = re.compile(r"[0-9a-f]{8,}|\d+")
"""Digests, times and sizes: messages that differ in them alone are the same."""


class Repeats:
    """
    Args:
        clock: monotonic seconds; injected by tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def due(self, message: str) -> str | None:
        """What to add to the message: nothing, or how many like it were left out. None: it is not to be said now."""
        key = _VARYING.sub("#", message)
        now = self._clock()
        said_at, left_out = self._said.get(key, (float("-inf"), 0))
        if now - said_at < _QUIET_SECONDS:
            self._said[key] = (said_at, left_out + 1)
            return None
        self._said[key] = (now, 0)
        self._said.move_to_end(key)
        if len(self._said) > _MAX_MESSAGES:
            self._said.popitem(last=False)
        return f" ({left_out} more like it since the last of these lines)" if left_out else ""
