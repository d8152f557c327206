"""How a blob is read while it may still be arriving: the one interface of server, decoder and tests."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Executor
from functools import partial
from io import FileIO
from typing import NamedTuple, Protocol

from imagedist.errors import StorageError, storage_error
from imagedist.oci.bulk import CHUNK_BYTES, Consume
from imagedist.threads import settled, stoppable


class Span(NamedTuple):
    """Where bytes lie that may be given away: ``file`` from the asked offset up to ``end``.

    Sent by ``sendfile`` a thousand readers of one arriving blob cost no memory; the position of the file is not
    used, so that readers may share it.
    """

    file: FileIO
    end: int


class OpenBlob(Protocol):
    """One reader's view of a blob, committed or in flight.

    In flight, bytes are given as they arrive, but never the last byte before size and digest were checked
    (design.md §4.1); pieces of the swarm are given only after their own hash matched. The last byte of a *part* of
    a blob is the caller's to hold back: ``wait_verified`` first, unless it ``is_verified``.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def is_verified(self) -> bool:
        """Whether size and digest of the whole blob were checked."""

    async def span(self, offset: int) -> Span | None:
        """The file that has the bytes at ``offset``, once there are any. None: they are in no file, ``read`` them.

        Raises:
            SourceError, IntegrityError, StorageError: the blob will not be completed.
        """

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        """At least one and at most ``limit_bytes`` bytes at ``offset``; waits for them. Empty only at the end.

        Raises as ``span``.
        """

    async def wait_verified(self) -> None:
        """Returns once it ``is_verified``. Raises as ``span``."""

    async def close(self) -> None: ...


async def deliver(blob: OpenBlob, consume: Consume, threads: Executor) -> None:
    """Hands a blob's bytes to ``consume``, in order, in a thread of ``threads`` that also reads them if it can.

    Raises:
        As ``OpenBlob.read``, and what ``consume`` raises.
    """
    buffer = memoryview(bytearray(CHUNK_BYTES))
    offset = 0
    while offset < blob.size_bytes:
        span = await blob.span(offset)
        if span is not None:
            stop = threading.Event()
            await stoppable(threads, partial(_pump, span, offset, buffer, consume, stop), stop.set)
            offset = span.end
        else:
            chunk = await blob.read(offset, CHUNK_BYTES)
            await settled(asyncio.get_running_loop().run_in_executor(threads, consume, chunk))
            offset += len(chunk)


def _pump(span: Span, offset: int, buffer: memoryview, consume: Consume, stop: threading.Event) -> None:
    while offset < span.end and not stop.is_set():
        try:
            count = os.preadv(span.file.fileno(), [buffer[: span.end - offset]], offset)
        except OSError as error:
            raise storage_error("read a blob", error) from error
        if not count:
            raise StorageError(f"cannot read a blob: its file ends at byte {offset}; something else changed it")
        consume(buffer[:count])
        offset += count
