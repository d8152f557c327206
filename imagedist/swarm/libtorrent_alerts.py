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

from imagedist.swarm.lull import Lull

_LOG = logging.getLogger(__name__)

_ALERTS_PER_PORTION = 500
"""Handled before the event loop gets its turn again: about 3 ms at 6 µs each."""


class Alerts:
    """
    Args:
        session: libtorrent's; held until ``stop``.
        handlers: by the alert's type; others are let go.
        is_awaited: whether somebody cannot go on before the next alert. Else they pile up for a moment (``lull.py``).
    """

    def __init__(
        self, session: Any, handlers: Mapping[Any, Callable[[Any], None]], is_awaited: Callable[[], bool]
    ) -> None:
        self._session = session
        self._handlers = handlers
        self._is_awaited = is_awaited
        self._lull = Lull()
        self._lull_seconds = 0.0
        self._lull_timer: asyncio.TimerHandle | None = None
        self._is_listening = True
        self._loop = asyncio.get_running_loop()
        self._reading_fd, self._writing_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._alerts: deque[Any] = deque()
        session.set_alert_fd(self._writing_fd)
        self._loop.add_reader(self._reading_fd, self._on_readable)
        self._loop.call_soon(self._on_readable)  # alerts older than set_alert_fd wrote nothing

    def stop(self) -> None:
        """Lets go of the session; no handler is called any more."""
        if self._lull_timer:
            self._lull_timer.cancel()
        self._loop.remove_reader(self._reading_fd)
        self._alerts.clear()
        self._session = None

    def close(self) -> None:
        """Only when libtorrent's threads are gone: until then they may write to the pipe's number, which could by
        then be another file's."""
        os.close(self._reading_fd)
        os.close(self._writing_fd)

    def hurry(self) -> None:
        """Somebody waits for an alert from now on."""
        if self._lull_timer and self._session is not None:
            self._lull_timer.cancel()
            self._lull_timer = None
            self._listen()

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            self._loop.add_reader(self._reading_fd, self._on_readable)

    def _unlisten(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._reading_fd)

    def _after_lull(self) -> None:
        """Reads at once what piled up: the pipe would only say that there is something, by a wake-up of its own."""
        self._on_readable()

    def _on_readable(self) -> None:
        # The pipe first: an alert posted after pop_alerts writes again. An alert is valid until the next
        # pop_alerts, so this one's are all handled, portion by portion, before the pipe is looked at again.
        if self._session is None or self._alerts:
            return
        if self._lull_timer:
            self._lull_timer.cancel()
            self._lull_timer = None
        with suppress(BlockingIOError):
            os.read(self._reading_fd, 4096)
        self._alerts = deque(self._session.pop_alerts())
        if not self._alerts:
            self._listen()
            return
        self._lull_seconds = self._lull.after(len(self._alerts), self._loop.time())
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
            self._unlisten()
            self._loop.call_soon(self._handle_portion)
        elif self._is_awaited():
            self._listen()
        else:
            self._unlisten()
            self._lull_timer = self._loop.call_later(self._lull_seconds, self._after_lull)
