"""Waiting for something to become so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from imagedist.errors import ImagedistError


def until(is_so: Callable[[], bool], what: str, seconds: float = 60.0, poll_seconds: float = 0.05) -> None:
    """Raises ImagedistError: it did not become so in time."""
    deadline, nothing = time.monotonic() + seconds, threading.Event()
    while not is_so():
        if time.monotonic() > deadline:
            raise ImagedistError(f"waited {seconds:.0f} s for {what}")
        nothing.wait(poll_seconds)
