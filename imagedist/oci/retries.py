"""When a registry is asked again: a bounded number of times, with back-off, full jitter and its own ``Retry-After``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import time

import tenacity

from imagedist.errors import SourceError

ATTEMPTS = 4
PATIENCE_SECONDS = 8.0
"""After which no other attempt begins, however few there were: a registry that does not answer costs one time-out."""
LONGEST_WAIT_SECONDS = 30.0
"""Of a ``Retry-After``: who is told to come back later than that gives up."""
_LONGEST_DATE_SECONDS = 7 * 86400.0

Sleep = Callable[[float], Awaitable[None]]

_back_off = tenacity.wait_random_exponential(multiplier=0.25, max=5)


class TransientError(SourceError):
    """This source failed, but may well answer when asked again.

    Attributes:
        retry_after_seconds: when it wants to be asked again; 0: it did not say.
        is_down: it cannot answer anybody; False: it answers, but not this (it was asked too often).
    """

    def __init__(self, message: str, retry_after_seconds: float = 0.0, *, is_down: bool = True) -> None:
        if retry_after_seconds > LONGEST_WAIT_SECONDS:
            message += f" (in {retry_after_seconds:.0f} s, it says)"
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.is_down = is_down


def retrying(sleep: Sleep = asyncio.sleep) -> tenacity.AsyncRetrying:
    """Runs a call until it raises no ``TransientError``, at most ``ATTEMPTS`` times; then the last one is raised."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_is_worth_waiting),
        stop=tenacity.stop_any(tenacity.stop_after_attempt(ATTEMPTS), tenacity.stop_after_delay(PATIENCE_SECONDS)),
        wait=_wait,
        sleep=sleep,
        reraise=True,
    )


def _is_worth_waiting(error: BaseException) -> bool:
    return isinstance(error, TransientError) and error.retry_after_seconds <= LONGEST_WAIT_SECONDS


def _wait(state: tenacity.RetryCallState) -> float:
    """Not before we are asked to, and not all of us at that moment."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_seconds if isinstance(error, TransientError) else 0.0
    return asked + _back_off(state)


def retry_after_seconds(header: str | None) -> float:
    """Reads ``Retry-After``: seconds or a date (RFC 9110 §10.2.3); 0 for none or nonsense."""
    if not header:
        return 0.0
    if header.isascii() and header.strip().isdigit():
        return min(float(header), _LONGEST_DATE_SECONDS)
    from email.utils import parsedate_to_datetime  # here: hardly ever needed, 10 ms

    try:
        return min(max(0.0, parsedate_to_datetime(header).timestamp() - time()), _LONGEST_DATE_SECONDS)
    except (ValueError, OverflowError):
        return 0.0
