"""Bulk blob bytes by aiohttp's client, a fifth of httpx's CPU per byte; broken bodies are resumed by Range."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from imagedist.errors import IntegrityError, SourceError
from imagedist.oci.exchange import Exchange
from imagedist.oci.raw_body import RawBody
from imagedist.oci.retries import Sleep, TransientError, retrying
from imagedist.threads import settled

Consume = Callable[[bytes | memoryview], None]
"""Takes the next bytes, which may change as soon as it returns."""

CHUNK_BYTES = 512 << 10
CONNECT_SECONDS = 10.0
_SAID_BYTES = 4096
STALL_SECONDS = 60.0
MAX_RESUMES = 8
"""Per blob, and each must have brought some bytes: a source that breaks more often is given up."""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})\Z")


def bulk_session(stall_seconds: float = STALL_SECONDS) -> aiohttp.ClientSession:
    """A session for raw bytes: nothing decoded, no cookies, no limit on the whole, one on standing still.

    TLS by aiohttp's own context, which verifies: another one would read the system's certificates again, 40 ms.
    """
    return aiohttp.ClientSession(
        auto_decompress=False,
        read_bufsize=CHUNK_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=stall_seconds),
    )


class BlobStream:
    """The bytes of one blob from ``offset`` on, in chunks of about ``CHUNK_BYTES``. Made by ``RegistryClient.blob``.

    Attributes:
        size_bytes: of the whole blob, as the registry states it; every resumed answer must agree.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        exchange: Callable[[], Exchange],
        *,
        name: str,
        about: str,
        offset: int,
        sleep: Sleep,
    ) -> None:
        self._session = session
        self._exchange = exchange
        self._name = name
        self._about = about
        self._position = offset
        self._sleep = sleep
        self._response: aiohttp.ClientResponse | None = None
        self._size_bytes: int | None = None
        self._resumes = 0
        self._resumed_at = -1

    @property
    def size_bytes(self) -> int:
        assert self._size_bytes is not None
        return self._size_bytes

    async def connect(self) -> None:
        """Sends the request from the registry's own URL on: a redirect's signature may have expired.

        Raises:
            NotFoundError, UnauthorizedError, SourceError: as the registry answered, after bounded retries.
        """
        await retrying(self._sleep)(self._connect)

    async def close(self) -> None:
        if self._response is not None:
            self._response.close()  # not released: an unread rest would have to be drained
            self._response = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._position < self.size_bytes:
            try:
                chunk = await self._read()
            except TransientError as error:
                await self._resume(error)
                continue
            self._position += len(chunk)
            yield chunk

    async def deliver(self, consume: Consume, threads: Executor) -> None:
        """Hands the bytes to ``consume``, in order, in a thread of ``threads`` that also receives them if it can.

        Raises:
            What iterating raises, and what ``consume`` raises.
        """
        while self._position < self.size_bytes:
            assert self._response is not None
            body = RawBody.take(self._response, self._session.timeout.sock_read or STALL_SECONDS)
            try:
                if body is not None:
                    await self._pump(body, consume, threads)
                else:
                    chunk = await self._read()
                    await settled(asyncio.get_running_loop().run_in_executor(threads, consume, chunk))
                    self._position += len(chunk)
            except TransientError as error:
                await self._resume(error)

    async def _pump(self, body: RawBody, consume: Consume, threads: Executor) -> None:
        try:
            work = threads.submit(self._pump_here, body, consume)
            pumping = asyncio.wrap_future(work)
            try:
                await asyncio.shield(pumping)
            except asyncio.CancelledError:
                work.cancel()  # if it still waits for a thread
                body.stop()
                with contextlib.suppress(Exception):  # that it was stopped is no news
                    await settled(pumping)
                raise
        finally:
            body.close()

    def _pump_here(self, body: RawBody, consume: Consume) -> None:
        """In a thread. Raises TransientError: the body broke off."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while left_bytes := self.size_bytes - self._position:
            failure: OSError | None = None
            count = 0
            try:
                count = body.fill(buffer[: min(CHUNK_BYTES, left_bytes)])
            except OSError as error:
                failure = error
            if not count:
                raise self._broke_off(failure) from failure
            consume(buffer[:count])
            self._position += count

    async def _resume(self, error: TransientError) -> None:
        """Connects again at the byte that is next. Raises the error: too often, or it did not help."""
        self._resumes += 1
        if self._resumes > MAX_RESUMES or self._position == self._resumed_at:
            raise error
        self._resumed_at = self._position
        await self.connect()

    async def _connect(self) -> None:
        await self.close()
        exchange = self._exchange()
        while True:
            headers = exchange.headers
            if self._position:
                headers["Range"] = f"bytes={self._position}-"
            try:
                response = await self._session.get(
                    URL(exchange.url, encoded=True),  # a signed URL must not be quoted again
                    headers=headers,
                    allow_redirects=False,
                    proxy=environment_proxy(exchange.url),
                )
                said = await response.content.read(_SAID_BYTES) if response.status >= 400 else b""
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise self._unreachable(error) from error
            try:
                if await exchange.again(response.status, response.headers, said):
                    response.close()
                    continue
                await self._accept(response)
            except BaseException:
                response.close()
                raise
            self._response = response
            return

    async def _accept(self, response: aiohttp.ClientResponse) -> None:
        stated = response.headers.get("Content-Range", "")
        skip_bytes = 0
        if response.status == 206:
            match = _CONTENT_RANGE.match(stated)
            if match is None or int(match[1]) != self._position:
                raise SourceError(f"registry {self._name} sent another range of {self._about} than was asked for")
            size_bytes = int(match[2])
        elif response.status == 416:
            if stated != f"bytes */{self._position}":
                raise SourceError(f"registry {self._name} refuses to resume {self._about} at byte {self._position}")
            size_bytes = self._position
        elif response.content_length is None:
            raise SourceError(f"registry {self._name} does not state the length of {self._about}")
        else:
            size_bytes = response.content_length
            skip_bytes = self._position  # the whole blob: this registry knows no ranges
        if self._size_bytes not in (None, size_bytes):
            raise IntegrityError(
                f"registry {self._name} states {size_bytes} bytes for {self._about}, before it was {self._size_bytes}"
            )
        self._size_bytes = size_bytes
        while skip_bytes:
            skip_bytes -= len(await self._read_from(response, min(skip_bytes, CHUNK_BYTES)))

    async def _read(self) -> bytes:
        assert self._response is not None
        wanted = min(CHUNK_BYTES, self.size_bytes - self._position)
        return await self._read_from(self._response, wanted)

    async def _read_from(self, response: aiohttp.ClientResponse, wanted: int) -> bytes:
        """Up to ``wanted`` bytes, as few turns of the loop as possible; fewer only when the body breaks off."""
        parts: list[bytes] = []
        got_bytes = 0
        failure: Exception | None = None
        while got_bytes < wanted:
            try:
                part = await response.content.read(wanted - got_bytes)
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = error
                break
            if not part:
                break
            parts.append(part)
            got_bytes += len(part)
        if not parts:
            raise self._broke_off(failure) from failure
        return b"".join(parts)

    def _broke_off(self, failure: Exception | None) -> TransientError:
        cause = f": {failure}" if failure and str(failure) else ""
        return TransientError(f"registry {self._name} broke off {self._about} at byte {self._position}{cause}")

    def _unreachable(self, error: Exception) -> SourceError:
        message = unreachable(self._name, error)
        return SourceError(message) if isinstance(error, aiohttp.ClientSSLError) else TransientError(message)


def unreachable(name: str, error: Exception) -> str:
    cause = str(error).partition("\n")[0] or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
    return f"cannot reach registry {name}: {cause}; check the name, the port or --plain-http"


def environment_proxy(url: str) -> str | None:
    """``HTTPS_PROXY`` and its kin, by the standard library's rules (aiohttp's own also reads ~/.netrc)."""
    parts = urlsplit(url)
    if parts.hostname is None or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)
