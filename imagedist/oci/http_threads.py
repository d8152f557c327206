"""HTTP by the standard library, in threads: few requests at a time, and nothing to import that is not there already.

A thread that receives a body also decrypts it, beside the event loop.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import TypeVar
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from imagedist.errors import SourceError
from imagedist.oci.http import CONNECT_SECONDS, FILL_SECONDS, Headers, unaskable, unreachable
from imagedist.oci.retries import TransientError
from imagedist.oci.tls import Tls
from imagedist.threads import settled

T = TypeVar("T")

_THREADS = 16
_IDLE = 4
"""Connections to one address that are kept for the next request."""
_NEXT_ADDRESS_SECONDS = 0.25
"""After which the next address of a name is tried beside the first (RFC 8305 §5)."""
_PIECE_BYTES = 64 << 10
"""Of a body, received at once; what a broken connection had of one is lost."""
_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
"""Scheme, host, port."""


class ThreadedClient:
    """An ``Http`` for one pull. It knows no HTTP proxies.

    Args:
        tls: for ``own_host``; of its certificate and key nobody else is shown anything.
        elsewhere_tls: for every other host that the registry names.
    """

    def __init__(
        self, *, tls: Tls | None = None, elsewhere_tls: Tls | None = None, own_host: str | None = None
    ) -> None:
        self._own_tls, self._elsewhere_tls, self._own_host = tls, elsewhere_tls, own_host
        self._threads = ThreadPoolExecutor(_THREADS, "http")
        self._idle: defaultdict[Origin, list[Connection]] = defaultdict(list)
        self._tls: ssl.SSLContext | None = None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        name: str,
        stall_seconds: float,
        form: bytes | None = None,
    ) -> ThreadedAnswer:
        try:
            parts = urlsplit(url)
            origin = parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]
            host = parts.netloc.rpartition("@")[2]
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            while True:
                idle = self._idle[origin]
                connection = idle.pop() if idle else await self._connected(origin)
                try:
                    return await connection.ask(method, target, {"Host": host, **headers}, stall_seconds, form)
                except (ConnectionError, ssl.SSLError, http.client.BadStatusLine):
                    if connection.answers == 0:
                        raise
                    # The other side had closed it meanwhile: once more, at last by a fresh one.
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise SourceError(unreachable(name, error)) from error
        except (OSError, http.client.BadStatusLine, http.client.LineTooLong, http.client.UnknownProtocol) as error:
            raise TransientError(unreachable(name, error)) from error
        except (ValueError, KeyError, http.client.HTTPException) as error:
            raise SourceError(unaskable(name, url, error)) from error

    async def _connected(self, origin: Origin) -> Connection:
        scheme, host, port = origin
        async with asyncio.timeout(CONNECT_SECONDS):
            addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            plain = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS)
        plain.settimeout(CONNECT_SECONDS)
        connection = Connection(self, origin, plain)
        if scheme == "https":
            try:
                await connection.encrypt()
            except BaseException:
                connection.close()
                raise
        return connection

    def tls(self, host: str) -> ssl.SSLContext:
        """Verifies. Reads the system's certificates, once."""
        given = self._own_tls if host == self._own_host else self._elsewhere_tls
        if given is not None:
            return given.context()
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    async def run(self, connection: Connection, work: Callable[[], T]) -> T:
        """Runs what waits for a connection in a thread; cancelled, the connection is cut and the thread waited for."""
        future = self._threads.submit(work)
        working = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            future.cancel()  # if it still waits for a thread
            connection.cut()
            with suppress(Exception):  # that it was cut is no news
                await settled(working)
            raise

    def give_back(self, connection: Connection) -> None:
        """Its last answer was read to its end, so that it can be used again."""
        idle = self._idle[connection.origin]
        if len(idle) < _IDLE:
            idle.append(connection)
        else:
            connection.close()

    async def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        self._threads.shutdown(wait=False)


class Connection:
    """One connection to an origin.

    Attributes:
        answers: so many have come by it.
    """

    def __init__(self, client: ThreadedClient, origin: Origin, plain: socket.socket) -> None:
        self._client = client
        self._socket = plain
        self._twin = plain.dup()  # to cut it while a thread has the other, encrypted or not
        self._http = http.client.HTTPConnection(origin[1], origin[2])
        self._http.sock = plain
        self.origin = origin
        self.answers = 0

    async def encrypt(self) -> None:
        """The TLS handshake. Raises OSError."""
        host = self.origin[1]
        self._socket = await self._client.run(
            self, lambda: self._client.tls(host).wrap_socket(self._socket, server_hostname=host)
        )
        self._http.sock = self._socket

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str], stall_seconds: float, form: bytes | None
    ) -> ThreadedAnswer:
        """Raises OSError, HTTPException, ValueError; the connection is closed then."""

        def exchange() -> http.client.HTTPResponse:
            self._socket.settimeout(stall_seconds)
            self._http.request(method, target, form, headers=dict(headers))
            return self._http.getresponse()

        try:
            response = await self._client.run(self, exchange)
        except BaseException:
            self.close()
            raise
        self.answers += 1
        return ThreadedAnswer(self._client, self, response)

    def cut(self) -> None:
        """Ends whatever a thread waits for."""
        with suppress(OSError):  # the other side was faster
            self._twin.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._http.close()
        self._socket.close()
        self._twin.close()


class ThreadedAnswer:
    """An ``Answer``, and the ``RawBody`` of it."""

    def __init__(self, client: ThreadedClient, connection: Connection, response: http.client.HTTPResponse) -> None:
        self._client = client
        self._connection: Connection | None = connection
        self._response = response
        self.status = response.status
        self.headers = Headers(response.getheaders())
        length = self.headers.get("Content-Length", "")
        self.content_length = int(length) if length.isdigit() and length.isascii() else None

    async def read(self, limit_bytes: int) -> bytes:
        assert self._connection is not None
        try:
            return await self._client.run(self._connection, lambda: self._response.read(limit_bytes))
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error

    def raw_body(self) -> _Body | None:
        assert self._connection is not None
        return _Body(self._connection, self._response)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        is_whole = self._response.isclosed() and not self._response.will_close
        self._response.close()
        if is_whole:
            self._client.give_back(connection)
        else:
            connection.close()


class _Body:
    def __init__(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def fill(self, buffer: memoryview) -> int:
        got, until = 0, monotonic() + FILL_SECONDS
        try:
            while got < len(buffer) and (count := self._response.readinto(buffer[got : got + _PIECE_BYTES])):
                got += count
                if monotonic() > until:
                    break
        except (OSError, http.client.HTTPException) as error:
            if not got:
                raise ConnectionError(str(error)) from error
        return got

    def stop(self) -> None:
        self._connection.cut()

    def close(self) -> None:
        """The answer closes it."""
