"""``sendfile`` to a client in as few turns of the event loop as its socket allows.

asyncio's own registers the socket anew for every call of the kernel, pauses reading and waits for a future: with steps
of 1 MiB that took a third of the server's CPU time (``imagedist-bench proxy``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from io import FileIO

from imagedist.errors import StorageError, storage_error

_CALL_BYTES = 4 << 20
"""The most that one call takes: what a socket buffers is less, and no client is served for longer than a few ms."""
_FLUSH_BYTES = 1 << 16


async def sendfile(transport: asyncio.Transport, file: FileIO, offset: int, count: int, *, stall_seconds: float) -> int:
    """Sends ``count`` bytes of a file from ``offset`` on. Not for TLS.

    Returns:
        The bytes sent: fewer only when the file ends.

    Raises:
        ConnectionError: the client went away. TimeoutError: it took no byte for ``stall_seconds``.
        StorageError: the disk failed.
    """
    if transport.is_closing():
        raise ConnectionResetError("the client went away")
    loop = asyncio.get_running_loop()
    start = offset
    if transport.get_write_buffer_size():  # asyncio's waits until what the transport holds has left
        async with asyncio.timeout(stall_seconds):
            offset += await loop.sendfile(transport, file, offset, min(count, _FLUSH_BYTES))
        if offset - start in (0, count):
            return offset - start
    sending = _Sending(loop, transport, file, offset, start + count, stall_seconds)
    try:
        return await sending.run() - start
    finally:
        sending.close()


class _Sending:
    """One file on its way to one socket. The loop knows that as the transport's, so ours is a duplicate."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        file: FileIO,
        offset: int,
        end: int,
        stall_seconds: float,
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._connection: socket.socket = transport.get_extra_info("socket")
        self._socket = self._connection.fileno()
        self._is_tcp = self._connection.family in (socket.AF_INET, socket.AF_INET6)
        self._fill_segments(True)
        self._file = file
        self._offset = offset
        self._end = end
        self._stall_seconds = stall_seconds
        self._duplicate = -1
        self._done: asyncio.Future[None] = loop.create_future()
        self._moved_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Returns where it stopped: at the end that was asked for, or at the file's."""
        if not self._step(self._socket):
            self._duplicate = os.dup(self._socket)
            self._timer = self._loop.call_later(self._stall_seconds, self._look)
            self._loop.add_writer(self._duplicate, self._writable)
            await self._done
        return self._offset

    def _fill_segments(self, value: bool) -> None:
        """Only full segments while it lasts (tcp(7)); afterwards at once again, as aiohttp wants it.

        0.40 s of CPU per GB to one client, nginx 0.42; with either option alone 0.45, with none 0.55.
        """
        if self._is_tcp and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # it went away: sending will find out
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not value)

    def close(self) -> None:
        self._fill_segments(False)
        if self._timer is not None:
            self._timer.cancel()
        if self._duplicate >= 0:
            self._loop.remove_writer(self._duplicate)
            os.close(self._duplicate)
            self._duplicate = -1

    def _writable(self) -> None:
        if self._done.done():
            return
        try:
            if self._transport.is_closing():
                raise ConnectionResetError("the client went away")
            is_over = self._step(self._duplicate)
        except (ConnectionError, StorageError) as error:
            self._done.set_exception(error)
        else:
            if is_over:
                self._done.set_result(None)

    def _step(self, to: int) -> bool:
        """As much as fits. Whether it is over."""
        try:
            sent = os.sendfile(to, self._file.fileno(), self._offset, min(_CALL_BYTES, self._end - self._offset))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno == errno.EIO:
                raise storage_error(f"read {self._file.name!r}", error) from error
            raise ConnectionResetError(f"the client went away: {error.strerror}") from error
        self._offset += sent
        self._moved_at = self._loop.time()
        return sent == 0 or self._offset == self._end

    def _look(self) -> None:
        left_seconds = self._moved_at + self._stall_seconds - self._loop.time()
        if left_seconds > 0:
            self._timer = self._loop.call_later(left_seconds, self._look)
        elif not self._done.done():
            self._done.set_exception(TimeoutError(f"the client took no byte for {self._stall_seconds:g} s"))
