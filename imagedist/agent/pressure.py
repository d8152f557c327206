"""Whether this machine has been under load for a while, by the kernel's pressure stall information (/proc/pressure)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imagedist.errors import ConfigError

_WINDOW_SECONDS = 10.0
_HIGH_WINDOWS = 3
_LOW_WINDOWS = 6
"""Quiet comes after half a minute of load, and goes after a minute without: it must not flap."""


class Pressure:
    """Watches the share of time in which some task waited for a CPU, for I/O or for memory.

    Args:
        thresholds: in percent, by resource: ``cpu``, ``io``, ``memory``. Load is what reaches one of them for three
            windows of ten seconds in a row; it is over when all have been below half of theirs for six.

    Raises:
        ConfigError: the kernel does not tell.
    """

    def __init__(self, thresholds: Mapping[str, float], directory: Path = Path("/proc/pressure")) -> None:
        self._thresholds = dict(thresholds)
        self._directory = directory
        self._began_at: float | None = None
        self._totals: dict[str, int] = {}
        self._is_own = False
        self._high = self._low = 0
        self.is_high = False
        for resource in self._thresholds:
            try:
                self._stalled_us(resource)
            except (OSError, ValueError, StopIteration) as error:
                raise ConfigError(
                    f"cannot read {directory / resource} ({error}): [quiet] {resource}_pressure needs a kernel with "
                    "pressure stall information (CONFIG_PSI, boot parameter psi=1)"
                ) from error

    def tick(self, now: float, *, is_own: bool) -> None:
        """Once every now and then.

        Args:
            is_own: the node takes an image, so the load is also its own: such a window counts for nothing.
        """
        if not self._thresholds:
            return
        self._is_own |= is_own
        if self._began_at is not None and now - self._began_at < _WINDOW_SECONDS:
            return
        try:
            totals = {resource: self._stalled_us(resource) for resource in self._thresholds}
        except (OSError, ValueError, StopIteration):
            return  # no file descriptor is free, for example: at the next tick
        if self._began_at is not None and not self._is_own:
            seconds = now - self._began_at
            self._judge({resource: (totals[resource] - self._totals[resource]) / seconds / 1e4 for resource in totals})
        self._began_at, self._totals, self._is_own = now, totals, is_own

    def _judge(self, percents: Mapping[str, float]) -> None:
        is_high = any(percents[resource] >= limit for resource, limit in self._thresholds.items())
        is_low = all(percents[resource] < limit / 2 for resource, limit in self._thresholds.items())
        self._high = self._high + 1 if is_high else 0
        self._low = self._low + 1 if is_low else 0
        if self._high >= _HIGH_WINDOWS:
            self.is_high = True
        elif self._low >= _LOW_WINDOWS:
            self.is_high = False

    def _stalled_us(self, resource: str) -> int:
        """Of ``some avg10=0.00 avg60=0.00 avg300=0.00 total=12345``: since boot (Documentation/accounting/psi.rst)."""
        some = next(line for line in (self._directory / resource).read_text().splitlines() if line.startswith("some "))
        return int(some.rpartition("total=")[2])
