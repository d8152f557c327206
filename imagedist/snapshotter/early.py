"""Greets those who connect while the snapshotter starts, before anything but the standard library is imported."""

from __future__ import annotations

from functools import cache

from imagedist.snapshotter.listening import inherited
from imagedist.snapshotter.relay import Relay


@cache
def begin() -> Relay | None:
    """The relay on the socket that systemd passed, which begins when this is first asked for; None: it passed none.

    Raises:
        InputError, StorageError: the socket cannot be used.
    """
    listener = inherited()
    return Relay(listener).start() if listener is not None else None
