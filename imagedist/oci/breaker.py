"""A circuit breaker: a registry that keeps failing is left alone for a while, then asked once whether it is back.

Of our own, because the libraries for it (aiobreaker: last release 2021; purgatory: no single probe, no reason to tell)
count failures that come at the same moment as many, and cannot say for how long and why.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imagedist.errors import SourceError
from imagedist.oci.retries import TransientError

FAILURES = 5
SPAN_SECONDS = 2.0
"""At least so long must the failures in a row have lasted: one lost link breaks all requests under way at once."""
SILENT_FAILURES = 2
SILENT_SECONDS = 10.0
"""Or so many over so long: time-outs are dear."""
_FORGOTTEN_SECONDS = 60.0
"""A failure of before that says nothing about now."""
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0
PROBE_SECONDS = 30.0
"""After which a probe that has not come back is taken for lost."""


class Breaker:
    """For one registry at one address. Closed: everyone asks. Open: nobody. Then half open: one asks for all.

    Failures in a row count, not their share: a registry that fails every second time is worth asking twice.

    Args:
        name: the registry, for messages.
        failures, span_seconds: so many in a row, and over so long, open it; two over ten seconds always do.
        changed: told whether it is open now, for metrics.
        clock, jitter: injected by tests. ``jitter`` gives 0 to 1.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = FAILURES,
        span_seconds: float = SPAN_SECONDS,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        changed: Callable[[bool], None] = lambda is_open: None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._failures = failures
        self._span_seconds = span_seconds
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._changed = changed
        self._clock = clock
        self._jitter = jitter
        self._in_a_row = 0
        self._since = self._last = 0.0
        self._pauses = 0
        self._open_until: float | None = None
        self._probe_until = 0.0
        self._reason = ""

    def __repr__(self) -> str:
        return f"<Breaker {self._name} {'open' if self.is_open else 'closed'}, {self._in_a_row} failures in a row>"

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    @contextmanager
    def attempt(self, counts: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Around one attempt to ask the registry.

        Args:
            counts: whether a failure is the registry's own, asked when there was one.

        Raises:
            SourceError: it is not asked now; says for how long and why.
        """
        is_probe = self._enter()
        begun = self._clock()
        try:
            yield
        except TransientError as error:
            if error.is_down and counts():
                self._fail(begun, str(error))
            elif is_probe:
                self._close()  # it answers, if only that we ask too often
            raise
        except Exception:
            self._close()  # whatever the answer was, it was one
            raise
        except BaseException:
            if is_probe:
                self._probe_until = 0.0  # cancelled: the next one asks
            raise
        else:
            self._close()

    def blame(self, reason: str, seconds: float) -> None:
        """Leaves a source alone that answers, but wrongly."""
        self._in_a_row, self._reason = 0, reason
        self._open(seconds)

    def _enter(self) -> bool:
        if self._open_until is None:
            return False
        now = self._clock()
        until = max(self._open_until, self._probe_until)
        if now < until:
            seconds = max(1, round(until - now))
            raise SourceError(f"registry {self._name} is not asked for another {seconds} s: {self._reason}")
        self._probe_until = now + PROBE_SECONDS
        return True

    def _fail(self, begun: float, reason: str) -> None:
        now = self._clock()
        if self._in_a_row == 0 or (begun - self._last > _FORGOTTEN_SECONDS and not self.is_open):
            self._in_a_row, self._since = 0, begun
        self._in_a_row += 1
        self._last = now
        lasted_seconds = now - self._since
        is_over = self._in_a_row >= self._failures and lasted_seconds >= self._span_seconds
        is_over = is_over or (self._in_a_row >= SILENT_FAILURES and lasted_seconds >= SILENT_SECONDS)
        if self._open_until is not None and now < self._open_until:
            return  # begun before it opened
        if self._open_until is not None or is_over:
            self._reason = f"it failed {self._in_a_row} times in a row, at last: {reason}"
            pause = min(self._first_pause_seconds * 2**self._pauses, self._longest_pause_seconds)
            self._pauses = min(self._pauses + 1, 16)
            self._open(pause * (0.8 + 0.4 * self._jitter()))

    def _open(self, seconds: float) -> None:
        was_open, self._open_until, self._probe_until = self.is_open, self._clock() + seconds, 0.0
        if not was_open:
            self._changed(True)

    def _close(self) -> None:
        if self._open_until is not None and self._clock() < max(self._open_until, 0.0):
            return  # begun before it opened
        was_open, self._open_until = self.is_open, None
        self._in_a_row = self._pauses = 0
        if was_open:
            self._changed(False)
