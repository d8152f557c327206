"""A request with a body to a registry: bytes, a file, or a part of one at somebody's pace."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import aiohttp

from imagedist.errors import storage_error
from imagedist.oci.exchange import Exchange
from imagedist.oci.http import unreachable
from imagedist.oci.http_aiohttp import AiohttpClient, Body
from imagedist.oci.retries import TransientError
from imagedist.threads import settled

_READ_BYTES = 256 << 10
_COMMIT_SECONDS = 300.0
"""A registry may copy an upload into an object store before it answers."""
_SLOWEST_BYTES_PER_SECOND = 100_000
_SLOWEST_PACED_BYTES_PER_SECOND = 10_000
"""Somebody caps what is sent."""
_SAID_BYTES = 4096

Pace = Callable[[int], Awaitable[object]]
"""Returns when so many bytes may be sent."""


@dataclass(frozen=True, slots=True)
class Part:
    """So much of a file, read as it is sent."""

    path: Path
    offset: int
    size_bytes: int
    pace: Pace

    async def read(self, file: BinaryIO) -> AsyncIterator[bytes]:
        """Ends early where the file does; what is missing breaks the request off."""
        offset, end = self.offset, self.offset + self.size_bytes
        while offset < end:
            size_bytes = min(_READ_BYTES, end - offset)
            content = await settled(asyncio.to_thread(os.pread, file.fileno(), size_bytes, offset))
            if not content:
                return
            await self.pace(len(content))
            yield content
            offset += len(content)


Content: TypeAlias = Path | bytes | Part


async def send(
    http: AiohttpClient, name: str, method: str, exchange: Exchange, content: Content, headers: dict[str, str]
) -> tuple[int, Mapping[str, str]]:
    """Sends a body, again where the answer says so; returns status and headers of the answer that counts.

    Args:
        name: the registry, for messages.
        headers: besides those of the exchange.

    Raises:
        As ``Exchange.again``. TransientError: no answer. StorageError: the file cannot be read.
    """
    while True:
        try:
            status, answered, said = await _open_and_write(http, name, method, exchange, content, headers)
        except OSError as error:
            raise storage_error("read what is to be pushed", error) from error
        if not await exchange.again(status, answered, said):
            return status, answered


async def _open_and_write(
    http: AiohttpClient, name: str, method: str, exchange: Exchange, content: Content, headers: dict[str, str]
) -> tuple[int, Mapping[str, str], bytes]:
    if isinstance(content, Part):
        with content.path.open("rb") as file:
            seconds = content.size_bytes / _SLOWEST_PACED_BYTES_PER_SECOND
            body = content.read(file)
            return await _write(http, name, method, exchange, body, content.size_bytes, seconds, headers)
    with content.open("rb") if isinstance(content, Path) else nullcontext(content) as plain:
        size_bytes = len(plain) if isinstance(plain, bytes) else os.fstat(plain.fileno()).st_size
        seconds = size_bytes / _SLOWEST_BYTES_PER_SECOND
        return await _write(http, name, method, exchange, plain, size_bytes, seconds, headers)


async def _write(
    http: AiohttpClient,
    name: str,
    method: str,
    exchange: Exchange,
    body: Body,
    size_bytes: int,
    seconds: float,
    headers: dict[str, str],
) -> tuple[int, Mapping[str, str], bytes]:
    headers = exchange.headers | headers | {"Content-Length": str(size_bytes)}
    try:
        async with asyncio.timeout(_COMMIT_SECONDS + seconds):
            async with await http.request(method, exchange.url, headers, body, name, _COMMIT_SECONDS) as response:
                said = await response.content.read(_SAID_BYTES)
                return response.status, response.headers, said
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(unreachable(name, error)) from error
