"""The events of one pull on their way to one client of the socket, however slowly it reads."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from imagedist.progress import Event

_ADDED_UP = ("fetched", "decoded", "extracted")


class Events:
    """A queue of a few events per layer at most: bytes that wait are added up by stage. It never blocks the pull."""

    def __init__(self) -> None:
        self._waiting: dict[object, Event] = {}
        self._arrived = asyncio.Event()
        self._is_ended = False

    def put(self, event: Event) -> None:
        key = (event.event, event.layer) if event.event in _ADDED_UP else object()
        earlier = self._waiting.get(key)
        if earlier is not None:
            event = replace(event, bytes=(earlier.bytes or 0) + (event.bytes or 0))
        self._waiting[key] = event
        self._arrived.set()

    def end(self) -> None:
        self._is_ended = True
        self._arrived.set()

    async def get(self) -> Event | None:
        """The next event; None after the last."""
        while not self._waiting:
            if self._is_ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.pop(next(iter(self._waiting)))
