"""How a blob's bytes leave: by ``sendfile`` when the file is committed, in steps while it arrives."""

from __future__ import annotations

import asyncio
from io import FileIO

from aiohttp import web

from imagedist.distribution.ranges import ByteRange
from imagedist.distribution.rate import TokenBucket
from imagedist.errors import SourceError, storage_error
from imagedist.metrics import BYTES_SERVED
from imagedist.store.reading import OpenBlob

STEP_BYTES = 1 << 20
CAPPED_STEP_BYTES = 256 << 10
"""Under a rate cap: small enough that connections share it evenly."""
STALL_SECONDS = 120.0
"""A client that takes no step within this is gone."""


async def send_bytes(
    request: web.Request, response: web.StreamResponse, blob: OpenBlob, part: ByteRange, rate: TokenBucket | None
) -> None:
    """Sends one part of a blob behind headers that are set but not sent yet.

    Raises:
        ImagedistError: the blob will not be completed. ConnectionError, TimeoutError: the client went away.
    """
    file = await _open_committed(blob)
    try:
        await response.prepare(request)
        step_bytes = STEP_BYTES if rate is None else CAPPED_STEP_BYTES
        offset, end = part.offset, part.offset + part.size_bytes
        while offset < end:
            wanted = min(step_bytes, end - offset)
            if file is not None:
                if rate:
                    await rate.take(wanted)
                sent = await _sendfile(request, file, offset, wanted)
            else:
                chunk = await blob.read(offset, wanted)
                if rate:
                    await rate.take(len(chunk))
                async with asyncio.timeout(STALL_SECONDS):
                    await response.write(chunk)
                sent = len(chunk)
            if sent == 0:
                raise SourceError(f"a blob ended after {offset} of {part.total_bytes} bytes")
            offset += sent
            BYTES_SERVED.labels(kind="blob").inc(sent)
        await response.write_eof()
    finally:
        if file is not None:
            file.close()


async def _open_committed(blob: OpenBlob) -> FileIO | None:
    """The committed file, if there is one and it has not been evicted this moment: the reader still has it then."""
    if blob.path is None:
        return None
    try:
        return await asyncio.to_thread(FileIO, blob.path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(f"open {blob.path}", error) from error


async def _sendfile(request: web.Request, file: FileIO, offset: int, count: int) -> int:
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client went away")
    async with asyncio.timeout(STALL_SECONDS):
        return await asyncio.get_running_loop().sendfile(request.transport, file, offset, count)
