"""When a registry is asked again: a bounded number of times, with back-off, jitter and its own ``Retry-After``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import time

import tenacity

from imagedist.errors import SourceError

ATTEMPTS = 4
LONGEST_WAIT_SECONDS = 30.0

Sleep = Callable[[float], Awaitable[None]]

_back_off = tenacity.wait_random_exponential(multiplier=0.25, max=5)


class TransientError(SourceError):
    """This source failed, but may well answer when asked again."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def retrying(sleep: Sleep = asyncio.sleep) -> tenacity.AsyncRetrying:
    """Runs a call until it raises no ``TransientError``, at most ``ATTEMPTS`` times; then the last one is raised."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=_wait,
        sleep=sleep,
        reraise=True,
    )


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_seconds if isinstance(error, TransientError) else 0.0
    return min(max(_back_off(state), asked), LONGEST_WAIT_SECONDS)


def retry_after_seconds(header: str | None) -> float:
    """Reads ``Retry-After``: seconds or a date (RFC 9110 §10.2.3); 0 for none or nonsense."""
    if not header:
        return 0.0
    if header.isascii() and header.strip().isdigit():
        return min(float(header), LONGEST_WAIT_SECONDS)
    from email.utils import parsedate_to_datetime  # here: hardly ever needed, 10 ms

    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except (ValueError, OverflowError):
        return 0.0
