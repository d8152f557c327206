"""How a blob's bytes leave: by ``sendfile`` out of the file they lie in, also while it grows; else in steps.

No body ends before its blob was verified (design.md §4.1): the store holds back the last byte of a blob, this file
that of a part.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from imagedist.distribution.page_cache import read_cached
from imagedist.distribution.ranges import ByteRange
from imagedist.distribution.rate import Cap
from imagedist.distribution.sendfile import sendfile
from imagedist.distribution.served import SERVED, Served
from imagedist.errors import SourceError
from imagedist.metrics import BYTES_SERVED
from imagedist.store.reading import OpenBlob

STEP_BYTES = 16 << 20
"""After each the bytes are counted."""
CAPPED_STEP_BYTES = 256 << 10
"""Under a rate cap: small enough that connections share it evenly."""
COPIED_STEP_BYTES = 128 << 10
"""What is not sent by sendfile lies in memory, once for each client."""
ENCRYPTED_STEP_BYTES = 32 << 10
"""By TLS several times: as it is, encrypted, and in the transport."""
STALL_SECONDS = 120.0
"""A client that takes no step within this is gone."""


async def send_bytes(
    request: web.Request, response: web.StreamResponse, blob: OpenBlob, part: ByteRange, rate: Cap | None
) -> None:
    """Sends one part of a blob behind headers that are set but not sent yet.

    Raises:
        ImagedistError: the blob will not be completed. ConnectionError, TimeoutError: the client went away.
    """
    if part.size_bytes == 0:
        await blob.wait_verified()
    await response.prepare(request)
    served = request.get(SERVED) or Served("blob")
    served.first_byte_at, served.sent_bytes = asyncio.get_running_loop().time(), 0
    may_sendfile = request.transport is not None and request.transport.get_extra_info("sslcontext") is None
    offset, end = part.offset, part.offset + part.size_bytes
    while offset < end:
        limit = end if blob.is_verified else end - 1
        if offset == limit:
            await blob.wait_verified()
            continue
        is_capped = rate is not None and rate.rate_bytes_per_second is not None
        wanted = min(CAPPED_STEP_BYTES if is_capped else STEP_BYTES, limit - offset)
        if request.transport is None:
            raise ConnectionResetError("the client went away")
        span = await blob.span(offset)
        if span is not None and may_sendfile:
            wanted = min(wanted, span.end - offset)
            if rate:
                await rate.take(wanted)
            sent = await sendfile(request.transport, span.file, offset, wanted, stall_seconds=STALL_SECONDS)
        else:
            chunk: bytes | bytearray | None = None
            if span is not None:
                chunk = read_cached(span.file, offset, min(wanted, span.end - offset, ENCRYPTED_STEP_BYTES))
            if chunk is None:
                chunk = await blob.read(offset, min(wanted, COPIED_STEP_BYTES))
            sent = len(chunk)
            if rate:
                await rate.take(sent)
            pieces = memoryview(chunk)
            while pieces:
                async with asyncio.timeout(STALL_SECONDS):
                    await response.write(pieces[:ENCRYPTED_STEP_BYTES])
                pieces = pieces[ENCRYPTED_STEP_BYTES:]
        if sent == 0:
            raise SourceError(f"a blob ended after {offset} of {part.total_bytes} bytes")
        offset += sent
        served.sent_bytes += sent
        BYTES_SERVED.labels(kind="blob").inc(sent)
    await response.write_eof()
