"""Bulk blob bytes; broken bodies are resumed by Range."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from functools import partial
from time import monotonic

from imagedist.errors import IntegrityError, SourceError
from imagedist.oci.breaker import Breaker
from imagedist.oci.exchange import Exchange
from imagedist.oci.http import FILL_SECONDS, Answer, Http, RawBody, unreachable
from imagedist.oci.retries import Sleep, TransientError, retrying
from imagedist.threads import settled, stoppable

Consume = Callable[[bytes | memoryview], None]
"""Takes the next bytes, which may change as soon as it returns."""

CHUNK_BYTES = 512 << 10
FIRST_CHUNK_BYTES = 64 << 10
"""The first is short and each one twice the last: at 1 Gbit/s a whole one would hold back the first byte for 4 ms."""
_SAID_BYTES = 4096
MAX_RESUMES = 8
"""Per blob, and each must have brought some bytes: a source that breaks more often is given up."""

SLOW_SECONDS = 30.0
SLOW_BYTES_PER_SECOND = 1024
"""Who sends less over so long is taken for one that broke off: drops that keep a connection alive are no answer."""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})\Z")


async def deliver_chunks(chunks: AsyncGenerator[bytes, None], consume: Consume, threads: Executor) -> None:
    """Hands bytes that come by the event loop to ``consume``, in order, in a thread of ``threads``."""
    loop = asyncio.get_running_loop()
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            await settled(loop.run_in_executor(threads, consume, chunk))


def attempt_at(breaker: Breaker | None, exchange: Exchange) -> AbstractContextManager[None]:
    """One attempt; what fails elsewhere than at the registry itself is not held against it."""
    return breaker.attempt(exchange.is_at_home) if breaker is not None else contextlib.nullcontext()


class _Pace:
    """Whether bytes come too slowly, by the time spent waiting for them (not for who takes them)."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._bytes = 0
        self.is_too_slow = False

    def note(self, seconds: float, size_bytes: int) -> None:
        self._seconds += seconds
        self._bytes += size_bytes
        if self._seconds >= SLOW_SECONDS:
            self.is_too_slow = self._bytes < SLOW_BYTES_PER_SECOND * self._seconds
            self._seconds, self._bytes = 0.0, 0


class BlobStream:
    """The bytes of one blob from ``offset`` on, in chunks of about ``CHUNK_BYTES``. Made by ``RegistryClient.blob``.

    Attributes:
        size_bytes: of the whole blob, as the registry states it; every resumed answer must agree.
    """

    def __init__(
        self,
        http: Http,
        exchange: Callable[[], Exchange],
        *,
        name: str,
        about: str,
        offset: int,
        first_byte_seconds: float,
        stall_seconds: float,
        breaker: Breaker | None,
        sleep: Sleep,
    ) -> None:
        self._http = http
        self._exchange = exchange
        self._name = name
        self._about = about
        self._position = offset
        self._first_byte_seconds = first_byte_seconds
        self._stall_seconds = stall_seconds
        self._breaker = breaker
        self._sleep = sleep
        self._answer: Answer | None = None
        self._size_bytes: int | None = None
        self._resumes = 0
        self._resumed_at = -1
        self._chunk_bytes = FIRST_CHUNK_BYTES
        self._pace = _Pace()

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
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.close()

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
            assert self._answer is not None
            body = self._answer.raw_body()
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
            await stoppable(threads, partial(self._pump_here, body, consume), body.stop)
        finally:
            body.close()

    def _pump_here(self, body: RawBody, consume: Consume) -> None:
        """In a thread. Raises TransientError: the body broke off."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while left_bytes := self.size_bytes - self._position:
            self._check_pace()
            failure: OSError | None = None
            count, begun = 0, monotonic()
            try:
                count = body.fill(buffer[: min(self._next_chunk_bytes(), left_bytes)])
            except OSError as error:
                failure = error
            if not count:
                raise self._broke_off(failure) from failure
            self._pace.note(monotonic() - begun, count)
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
        with attempt_at(self._breaker, exchange):
            while (answer := await self._ask(exchange)) is None:
                pass
        self._answer = answer
        self._pace = _Pace()

    def _check_pace(self) -> None:
        if self._pace.is_too_slow:
            raise self._broke_off(TimeoutError(f"less than {SLOW_BYTES_PER_SECOND} bytes came per second"))

    async def _ask(self, exchange: Exchange) -> Answer | None:
        """The answer that counts; None: the exchange goes on."""
        headers = exchange.headers
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        try:
            async with asyncio.timeout(self._first_byte_seconds):
                answer = await self._http.send(
                    "GET", exchange.url, headers, name=self._name, stall_seconds=self._stall_seconds
                )
        except TimeoutError as error:
            raise TransientError(unreachable(self._name, error)) from error
        try:
            said = await self._said(answer) if answer.status >= 400 else b""
            if await exchange.again(answer.status, answer.headers, said):
                await answer.close()
                return None
            await self._accept(answer)
        except BaseException:
            await answer.close()
            raise
        return answer

    async def _said(self, answer: Answer) -> bytes:
        try:
            return await answer.read(_SAID_BYTES)
        except OSError as error:
            raise TransientError(unreachable(self._name, error)) from error

    async def _accept(self, answer: Answer) -> None:
        stated = answer.headers.get("Content-Range", "")
        skip_bytes = 0
        if answer.status == 206:
            match = _CONTENT_RANGE.match(stated)
            if match is None or int(match[1]) != self._position:
                raise SourceError(f"registry {self._name} sent another range of {self._about} than was asked for")
            size_bytes = int(match[2])
        elif answer.status == 416:
            if stated != f"bytes */{self._position}":
                raise SourceError(f"registry {self._name} refuses to resume {self._about} at byte {self._position}")
            size_bytes = self._position
        elif answer.content_length is None:
            raise SourceError(f"registry {self._name} does not state the length of {self._about}")
        else:
            size_bytes = answer.content_length
            skip_bytes = self._position  # the whole blob: this registry knows no ranges
        if self._size_bytes not in (None, size_bytes):
            raise IntegrityError(
                f"registry {self._name} states {size_bytes} bytes for {self._about}, before it was {self._size_bytes}"
            )
        self._size_bytes = size_bytes
        while skip_bytes:
            skip_bytes -= len(await self._read_from(answer, min(skip_bytes, CHUNK_BYTES)))

    def _next_chunk_bytes(self) -> int:
        size_bytes, self._chunk_bytes = self._chunk_bytes, min(2 * self._chunk_bytes, CHUNK_BYTES)
        return size_bytes

    async def _read(self) -> bytes:
        assert self._answer is not None
        self._check_pace()
        begun = monotonic()
        wanted = min(self._next_chunk_bytes(), self.size_bytes - self._position)
        chunk = await self._read_from(self._answer, wanted)
        self._pace.note(monotonic() - begun, len(chunk))
        return chunk

    async def _read_from(self, answer: Answer, wanted: int) -> bytes:
        """Up to ``wanted`` bytes, as few turns of the loop as possible; fewer when they come slowly or break off."""
        until = monotonic() + FILL_SECONDS
        parts: list[bytes] = []
        got_bytes = 0
        failure: Exception | None = None
        while got_bytes < wanted:
            try:
                part = await answer.read(wanted - got_bytes)
            except OSError as error:
                failure = error
                break
            if not part:
                break
            parts.append(part)
            got_bytes += len(part)
            if monotonic() > until:
                break
        if not parts:
            raise self._broke_off(failure) from failure
        return b"".join(parts)

    def _broke_off(self, failure: Exception | None) -> TransientError:
        cause = f": {failure}" if failure and str(failure) else ""
        return TransientError(f"registry {self._name} broke off {self._about} at byte {self._position}{cause}")
