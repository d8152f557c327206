"""libtorrent's alerts, from its threads to the event loop, in bounded portions.

A pipe (``set_alert_fd``) wakes the loop. ``set_alert_notify`` is not used: it can deadlock on the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

_LOG = logging.getLogger(__name__)

_ALERTS_PER_PORTION = 500
"""Handled before the event loop gets its turn again: about 3 ms at 6 µs each."""


class Alerts:
    """
    Args:
        session: libtorrent's; held until ``stop``.
        handlers: by the alert's type; others are let go.
    """

    def __init__(self, session: Any, handlers: Mapping[Any, Callable[[Any], None]]) -> None:
        self._session = session
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._reading_fd, self._writing_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._alerts: deque[Any] = deque()
        session.set_alert_fd(self._writing_fd)
        self._loop.add_reader(self._reading_fd, self._on_readable)
        self._loop.call_soon(self._on_readable)  # alerts older than set_alert_fd wrote nothing

    def stop(self) -> None:
        """Lets go of the session; no handler is called any more."""
        self._loop.remove_reader(self._reading_fd)
        self._alerts.clear()
        self._session = None

    def close(self) -> None:
        """Only when libtorrent's threads are gone: until then they may write to the pipe's number, which could by
        then be another file's."""
        os.close(self._reading_fd)
        os.close(self._writing_fd)

    def _on_readable(self) -> None:
        # The pipe first: an alert posted after pop_alerts writes again. An alert is valid until the next
        # pop_alerts, so this one's are all handled, portion by portion, before the pipe is looked at again.
        if self._session is None:
            return
        self._loop.remove_reader(self._reading_fd)
        with suppress(BlockingIOError):
            os.read(self._reading_fd, 4096)
        self._alerts = deque(self._session.pop_alerts())
        self._handle_portion()

    def _handle_portion(self) -> None:
        if self._session is None:
            return
        for _ in range(min(_ALERTS_PER_PORTION, len(self._alerts))):
            alert = self._alerts.popleft()
            handler = self._handlers.get(type(alert))
            if handler:
                try:
                    handler(alert)
                except Exception:  # one alert that surprises us must not make the session deaf to all others
                    _LOG.exception("cannot handle the alert %r", alert.message())
        if self._alerts:
            self._loop.call_soon(self._handle_portion)
        else:
            self._loop.add_reader(self._reading_fd, self._on_readable)
