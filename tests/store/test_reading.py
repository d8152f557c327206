"""Blobs are handed over whole and in order, from their file or not, also while they arrive."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError, StorageError
from imagedist.oci.digest import Digest
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.reading import Span, deliver
from imagedist.store.writer import BlobWriter

CONTENT = os.urandom(1_500_000)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "consumer") as pool:
        yield pool


class Consumer:
    def __init__(self) -> None:
        self.content = b""
        self.threads: set[str] = set()

    def take(self, chunk: bytes | memoryview) -> None:
        self.content += chunk
        self.threads.add(threading.current_thread().name)


class WithoutFile:
    """An ``OpenBlob`` in memory."""

    size_bytes = len(CONTENT)
    is_verified = True

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        return CONTENT[offset : offset + min(limit_bytes, 200_000)]

    async def span(self, offset: int) -> Span | None:
        return None

    async def wait_verified(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def test_a_committed_blob_is_read_where_it_is_consumed(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    store, consumer = BlobStore(tmp_path / "store"), Consumer()
    (tmp_path / "source").write_bytes(CONTENT)
    await store.adopt(tmp_path / "source", DIGEST, len(CONTENT))
    blob = await store.open(DIGEST)
    await deliver(blob, consumer.take, threads)
    await blob.close()
    assert consumer.content == CONTENT
    assert consumer.threads == {"consumer_0"}


async def test_a_blob_that_is_in_no_file_is_handed_over_too(threads: ThreadPoolExecutor) -> None:
    consumer = Consumer()
    await deliver(WithoutFile(), consumer.take, threads)
    assert consumer.content == CONTENT
    assert consumer.threads == {"consumer_0"}


@pytest.mark.parametrize("is_right", [True, False])
async def test_an_arriving_blob_comes_without_its_last_byte_until_its_digest_matched(
    tmp_path: Path, threads: ThreadPoolExecutor, is_right: bool
) -> None:
    content = CONTENT if is_right else CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    consumer, all_but_one, proceed = Consumer(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def take(chunk: bytes | memoryview) -> None:
        consumer.take(chunk)
        if len(consumer.content) >= len(CONTENT) - 1:
            loop.call_soon_threadsafe(all_but_one.set)

    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(content))
        await asyncio.get_running_loop().run_in_executor(writer.threads, writer.append, content[:700_000])
        await writer.write(content[700_000:])
        await proceed.wait()

    arrivals = Arrivals(BlobStore(tmp_path))
    blob = await (await arrivals.join(DIGEST, None, fetch)).open()
    delivering = asyncio.create_task(deliver(blob, take, threads))
    await all_but_one.wait()
    assert consumer.content == CONTENT[:-1]
    proceed.set()
    if is_right:
        await delivering
        assert consumer.content == CONTENT
    else:
        with pytest.raises(IntegrityError):
            await delivering
        assert consumer.content == CONTENT[:-1]
    await blob.close()
    await arrivals.close()


async def test_a_cancelled_delivery_ends_in_the_middle_and_leaves_no_thread_behind(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    begun, may_go_on, taken = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def take(chunk: bytes | memoryview) -> None:
        taken.append(len(chunk))
        loop.call_soon_threadsafe(begun.set)
        may_go_on.wait()

    store = BlobStore(tmp_path / "store")
    (tmp_path / "source").write_bytes(CONTENT)
    await store.adopt(tmp_path / "source", DIGEST, len(CONTENT))
    blob = await store.open(DIGEST)
    delivering = asyncio.create_task(deliver(blob, take, threads))
    await begun.wait()
    delivering.cancel()
    await asyncio.sleep(0)
    is_over_too_soon = delivering.done()
    may_go_on.set()
    assert not is_over_too_soon
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert len(taken) == 1
    await blob.close()


async def test_a_file_that_somebody_cut_off_is_an_error(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    store, consumer = BlobStore(tmp_path / "store"), Consumer()
    (tmp_path / "source").write_bytes(CONTENT)
    await store.adopt(tmp_path / "source", DIGEST, len(CONTENT))
    blob = await store.open(DIGEST)
    os.truncate(store.path(DIGEST), 1000)
    with pytest.raises(StorageError, match="ends at byte 1000"):
        await deliver(blob, consumer.take, threads)
    await blob.close()
