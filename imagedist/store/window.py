"""Bytes that are passed on without being stored: a few chunks in memory that all readers share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from imagedist.errors import SourceError

WINDOW_BYTES = 4 << 20
_PATIENCE_SECONDS = 10.0
_STALL_SECONDS = 60.0


class Window:
    """The last ``limit_bytes`` of a stream. The writer waits for the slowest reader; when others have everything
    already, who needs more than ``patience_seconds`` for a chunk is cut off, so that nobody is held up for long: it
    may ask again, from where it was.

    Args:
        start: the offset of the first byte that will be put.
        changed: called after each change, to wake who waits.
    """

    def __init__(
        self,
        start: int,
        changed: Callable[[], None],
        limit_bytes: int = WINDOW_BYTES,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
        stall_seconds: float = _STALL_SECONDS,
    ) -> None:
        self.start = self.end = start
        self._changed = changed
        self._limit_bytes = limit_bytes
        self._patience_seconds = patience_seconds
        self._stall_seconds = stall_seconds
        self._chunks: deque[bytes] = deque()
        self._positions: dict[object, int] = {}
        self._moved = asyncio.Event()
        self._is_closed = False

    def close(self) -> None:
        """Ends the waiting of a writer: the process stops."""
        self._is_closed = True
        self._moved.set()

    def join(self, reader: object, offset: int) -> None:
        """A reader that wants the bytes from ``offset`` on; call again when it has come further."""
        self._positions[reader] = offset
        self._moved.set()

    def leave(self, reader: object) -> None:
        self._positions.pop(reader, None)
        self._moved.set()

    def read(self, reader: object, offset: int, limit_bytes: int) -> bytes:
        """What is there at ``offset``; at most one chunk.

        Raises:
            SourceError: it is gone: this reader was too slow, or came too late.
        """
        if offset < self.start:
            raise SourceError("too slow for a blob that the site has no room to store: ask again")
        self.join(reader, offset)
        position = self.start
        for chunk in self._chunks:
            if offset < position + len(chunk):
                return chunk[offset - position :][:limit_bytes]
            position += len(chunk)
        return b""

    async def put(self, chunk: bytes) -> None:
        """Appends; waits until there is room.

        Raises:
            SourceError: nobody reads, or it was closed.
        """
        now = asyncio.get_running_loop().time
        moved_at = held_since = now()
        while self.end + len(chunk) - self.start > self._limit_bytes and self._chunks:
            if self._give_way():
                held_since = now()
                continue
            if self._is_closed or now() - moved_at >= self._stall_seconds:
                raise SourceError("nobody reads a blob that the site has no room to store")
            if now() - held_since >= self._patience_seconds and self._cut_off():
                continue
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_seconds):
                    await self._moved.wait()
                    moved_at = now()
        self._chunks.append(chunk)
        self.end += len(chunk)
        self._changed()

    def _give_way(self) -> bool:
        """Lets go of the first chunk once every reader is behind it. With no reader at all, one may still come."""
        if not self._positions or min(self._positions.values()) < self.start + len(self._chunks[0]):
            return False
        self.start += len(self._chunks.popleft())
        return True

    def _cut_off(self) -> bool:
        """Whether a laggard was dropped, because somebody else waits."""
        slowest = min(self._positions, key=lambda reader: self._positions[reader], default=None)
        if slowest is None or max(self._positions.values()) < self.end:
            return False
        del self._positions[slowest]
        return True
