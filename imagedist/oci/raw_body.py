"""A body's bytes straight from its socket, in the thread that uses them: no event loop, no copies in between.

Measured over loopback, 600 MB while all CPUs decode: through aiohttp's reader and an executor call per chunk the bytes
cost four times as much CPU.
"""

from __future__ import annotations

import contextlib
import os
import socket
from time import monotonic

import aiohttp

from imagedist.oci.http import FILL_SECONDS


class RawSocketBody:
    """A ``RawBody``: the rest of a response, taken from aiohttp's hands. Blocking; for one thread, but for ``stop``.

    Args:
        connection: None: all of it has been read, and the connection is another request's now, not to be touched.
        begun: what aiohttp has read of it already.
        size_bytes: with that; the connection may stay open after them.
    """

    def __init__(self, connection: socket.socket | None, begun: bytes, size_bytes: int) -> None:
        self._connection = connection
        self._begun = memoryview(begun)
        self._left_bytes = size_bytes

    @classmethod
    def take(cls, response: aiohttp.ClientResponse, stall_seconds: float) -> RawSocketBody | None:
        """From a response whose body is as long as its Content-Length says. None: go on with aiohttp.

        It cannot be had of TLS or of chunks; of a body that has arrived or broken off there is nothing left to have.

        No byte is lost or taken twice: all of this is one step of the event loop, in which nobody but us can read. What
        asyncio has read so far it has given to aiohttp, for its transport keeps nothing; what aiohttp's parser kept
        back it has given to the reader, which is empty now; the rest is still in the socket. From the end of the step
        on the transport does not read: a look at the socket that is due already is cancelled by ``pause_reading``.
        """
        connection, content = response.connection, response.content
        transport = connection.transport if connection is not None else None
        stated_bytes = response.content_length
        if response.url.scheme != "http" or "Transfer-Encoding" in response.headers or stated_bytes is None:
            return None
        if transport is None or transport.is_closing() or content.exception() is not None:
            return None
        if transport.get_extra_info("sslcontext") is not None:  # to an HTTPS proxy
            return None
        try:
            own = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except OSError:  # no descriptor is left for it
            return None
        own.settimeout(stall_seconds)
        begun = emptied(content)
        if response.connection is None:  # that was the end
            own.close()
            return cls(None, begun, len(begun))
        transport.pause_reading()
        return cls(own, begun, stated_bytes - content.total_bytes + len(begun))

    def fill(self, buffer: memoryview) -> int:
        """Reads until the buffer is full. Returns how many bytes there are; fewer: they come slowly, end or break off.

        Raises:
            OSError: it broke off, or stood still, before the first byte.
        """
        buffer = buffer[: self._left_bytes]
        got = min(len(self._begun), len(buffer))
        buffer[:got] = self._begun[:got]
        self._begun = self._begun[got:]
        until = monotonic() + FILL_SECONDS
        try:
            while self._connection is not None and got < len(buffer):
                if not (count := self._connection.recv_into(buffer[got:])):
                    break
                got += count
                if monotonic() > until:
                    break
        except OSError:
            if not got:
                raise
        self._left_bytes -= got
        return got

    def stop(self) -> None:
        """Ends a ``fill`` under way in another thread."""
        if self._connection is not None:
            with contextlib.suppress(OSError):  # the other side was faster
                self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def emptied(content: aiohttp.StreamReader) -> bytes:
    """All that aiohttp has of a body. Emptying a reader that was full has its parser go on, which may fill it again."""
    parts = []
    while content.exception() is None and (part := content.read_nowait()):
        parts.append(part)
    return b"".join(parts)
