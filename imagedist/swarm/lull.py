"""How long a session may let alerts pile up that nobody waits for. Pure.

Every 16 KiB block has two alerts. Read one by one they cost a slow link's node more CPU time than the bytes do; read
by the dozen they cost little, and whoever waits for one (a piece to read, the end) does not wait for the dozen.
"""

from __future__ import annotations

LEAST_SECONDS = 0.01
MOST_SECONDS = 0.2
_AIM = 64
"""Alerts to read at a time. 8 Mbit/s bring so many in half a second, 1 Gbit/s in 4 ms."""
_GROWTH = 2.0


class Lull:
    """As long as a few dozen alerts take at the rate of the last ones, within bounds.

    It grows step by step, so that a download that has just begun is looked at often, and shrinks at once.
    """

    def __init__(self) -> None:
        self._seconds = LEAST_SECONDS
        self._read_at = float("-inf")

    def after(self, alerts: int, now: float) -> float:
        """Seconds to let pass now that so many were read.

        Args:
            now: by a clock in seconds that never goes back.
        """
        elapsed, self._read_at = now - self._read_at, now
        if elapsed > 2 * MOST_SECONDS:  # nothing went on before
            self._seconds = LEAST_SECONDS
        else:
            wanted = elapsed * _AIM / max(1, alerts)
            self._seconds = min(max(wanted, LEAST_SECONDS), _GROWTH * self._seconds, MOST_SECONDS)
        return self._seconds
