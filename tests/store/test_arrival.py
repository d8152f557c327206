from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError, NotFoundError, SourceError, StorageError
from imagedist.oci.digest import Digest
from imagedist.store.arrival import Arrival
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.partial import Partial
from imagedist.store.writer import BlobWriter

CONTENT = os.urandom(100_000)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
async def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
async def arrivals(store: BlobStore) -> AsyncIterator[Arrivals]:
    arrivals = Arrivals(store)
    yield arrivals
    await arrivals.close()


class Source:
    """Sends a content in two halves, the second when ``gate`` opens."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.gate = asyncio.Event()
        self.offsets: list[int] = []

    async def fetch(self, writer: BlobWriter) -> None:
        self.offsets.append(writer.offset)
        await writer.begin(len(self.content))
        middle = max(writer.offset, len(self.content) // 2)
        if writer.offset < middle:
            await writer.write(self.content[writer.offset : middle])
        await self.gate.wait()
        await writer.write(self.content[middle:])


async def read_all(arrival: Arrival) -> bytes:
    blob = await arrival.open()
    try:
        content = b""
        while chunk := await blob.read(len(content), 30_000):
            content += chunk
        return content
    finally:
        await blob.close()


def raising(error: Exception, first: bytes = b"") -> Callable[[BlobWriter], Awaitable[None]]:
    async def fetch(writer: BlobWriter) -> None:
        if first:
            await writer.begin(len(CONTENT))
            await writer.write(first)
        raise error

    return fetch


async def test_blob_is_fetched_once_however_many_ask(store: BlobStore, arrivals: Arrivals) -> None:
    source = Source()
    joined = [await arrivals.join(DIGEST, None, source.fetch) for _ in range(50)]
    readers = [asyncio.create_task(read_all(arrival)) for arrival in joined]
    source.gate.set()
    assert set(await asyncio.gather(*readers)) == {CONTENT}
    assert source.offsets == [0]
    assert store.has(DIGEST)
    assert list((store.root / "partial").iterdir()) == []


async def test_reader_gets_bytes_before_the_rest_has_arrived(arrivals: Arrivals) -> None:
    source = Source()
    blob = await (await arrivals.join(DIGEST, None, source.fetch)).open()
    assert blob.size_bytes == len(CONTENT)
    assert await blob.read(10, 20) == CONTENT[10:30]
    assert not blob.is_verified
    source.gate.set()
    assert await blob.read(99_999, 5_000) == CONTENT[-1:]
    assert blob.is_verified
    await blob.close()


async def test_last_byte_is_withheld_until_the_digest_matched(arrivals: Arrivals, store: BlobStore) -> None:
    wrong = bytearray(CONTENT)
    wrong[5] ^= 1
    arrived, proceed = asyncio.Event(), asyncio.Event()

    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(wrong))
        await writer.write(bytes(wrong))
        arrived.set()
        await proceed.wait()

    arrival = await arrivals.join(DIGEST, None, fetch)
    blob = await arrival.open()
    await arrived.wait()
    assert len(await blob.read(0, 1 << 20)) == len(CONTENT) - 1
    last = asyncio.create_task(blob.read(len(CONTENT) - 1, 1))
    proceed.set()
    with pytest.raises(IntegrityError, match="wrong bytes"):
        await last
    await blob.close()
    assert not store.has(DIGEST)
    assert list((store.root / "partial").iterdir()) == []


@pytest.mark.parametrize("size_bytes", [0, 1])
async def test_tiny_blobs_arrive(arrivals: Arrivals, size_bytes: int) -> None:
    source = Source(b"x" * size_bytes)
    source.gate.set()
    assert await read_all(await arrivals.join(Digest.of(source.content), None, source.fetch)) == source.content


async def test_one_byte_too_many_is_refused(arrivals: Arrivals) -> None:
    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(CONTENT))
        await writer.write(CONTENT + b"!")

    with pytest.raises(IntegrityError, match="longer"):
        await (await arrivals.join(DIGEST, None, fetch)).wait()


async def test_another_size_than_the_descriptor_states_is_refused(arrivals: Arrivals) -> None:
    with pytest.raises(IntegrityError, match="expected 7"):
        await (await arrivals.join(DIGEST, 7, Source().fetch)).wait()


async def test_failure_reaches_every_follower_and_a_later_fetch_resumes(arrivals: Arrivals, store: BlobStore) -> None:
    arrival = await arrivals.join(DIGEST, None, raising(SourceError("cut"), CONTENT[:40_000]))
    results = await asyncio.gather(*(read_all(arrival) for _ in range(5)), return_exceptions=True)
    assert [str(result) for result in results] == ["cut"] * 5

    source = Source()
    source.gate.set()
    assert await read_all(await arrivals.join(DIGEST, None, source.fetch)) == CONTENT
    assert source.offsets == [40_000]


async def test_not_found_is_known_before_any_byte_is_promised(arrivals: Arrivals, store: BlobStore) -> None:
    arrival = await arrivals.join(DIGEST, len(CONTENT), raising(NotFoundError("nobody has it")))
    with pytest.raises(NotFoundError):
        await arrival.open()
    assert list((store.root / "partial").iterdir()) == []


async def test_fetch_that_ends_early_commits_nothing(arrivals: Arrivals, store: BlobStore) -> None:
    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(CONTENT))
        await writer.write(CONTENT[:-1])

    with pytest.raises(SourceError, match="ended after 99999 of 100000 bytes"):
        await (await arrivals.join(DIGEST, None, fetch)).wait()
    assert not store.has(DIGEST)


async def test_a_crowd_of_readers_gets_every_byte(arrivals: Arrivals) -> None:
    async def fetch(writer: BlobWriter) -> None:
        await writer.begin(len(CONTENT))
        for start in range(0, len(CONTENT), 1000):
            await writer.write(CONTENT[start : start + 1000])

    arrival = await arrivals.join(DIGEST, None, fetch)
    assert set(await asyncio.gather(*(read_all(arrival) for _ in range(100)))) == {CONTENT}


async def test_cancelled_asker_does_not_cancel_the_fetch(arrivals: Arrivals) -> None:
    source = Source()
    arrival = await arrivals.join(DIGEST, None, source.fetch)
    asker = asyncio.create_task(read_all(arrival))
    await arrival.wait_begun()
    asker.cancel()
    await asyncio.wait([asker])
    source.gate.set()
    await arrival.wait()


async def test_closing_stops_fetches_and_keeps_what_arrived(store: BlobStore, arrivals: Arrivals) -> None:
    source = Source()
    arrival = await arrivals.join(DIGEST, None, source.fetch)
    blob = await arrival.open()
    await blob.read(0, 1)
    await blob.close()
    await arrivals.close()
    with pytest.raises(SourceError, match="stopped"):
        await arrival.wait()
    assert store.partial_path(DIGEST).stat().st_size == 50_000


async def test_a_fetch_that_is_stopped_while_it_takes_the_lock_leaves_none(
    store: BlobStore, arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, locking = asyncio.get_running_loop(), asyncio.Event()
    proceed, locked = threading.Event(), threading.Event()
    lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        loop.call_soon_threadsafe(locking.set)
        assert proceed.wait(60)
        lock(descriptor, operation)
        locked.set()

    store.partial_path(DIGEST).write_bytes(CONTENT[:40_000])
    monkeypatch.setattr(fcntl, "flock", flock)
    await arrivals.join(DIGEST, None, Source().fetch)
    await locking.wait()
    closing = asyncio.create_task(arrivals.close())
    await asyncio.sleep(0)
    proceed.set()
    await closing
    assert await asyncio.to_thread(locked.wait, 60)
    heir = Partial.claim(store.partial_path(DIGEST), DIGEST)
    assert heir is not None
    assert heir.found_bytes == 40_000
    heir.release()


async def test_known_size_needs_no_begin(arrivals: Arrivals) -> None:
    arrival = await arrivals.join(DIGEST, len(CONTENT), lambda writer: writer.write(CONTENT))
    assert await read_all(arrival) == CONTENT


async def test_quota_is_kept_for_what_is_arriving(tmp_path: Path) -> None:
    arrivals = Arrivals(BlobStore(tmp_path, quota_bytes=len(CONTENT) - 1))
    with pytest.raises(StorageError, match="raise the quota"):
        await (await arrivals.join(DIGEST, None, Source().fetch)).wait()


async def test_full_disk_names_the_directory_and_leaves_nothing(arrivals: Arrivals, store: BlobStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # EFBIG stands in for ENOSPC; both come from write(2)
    try:
        with pytest.raises(StorageError, match=f"to {store.root / 'partial'}"):
            await (await arrivals.join(DIGEST, len(CONTENT), lambda writer: writer.write(CONTENT))).wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((store.root / "partial").iterdir()) == []


class TestTwoProcesses:
    """Two ``Arrivals`` over one directory exclude each other by the lock of the partial file, as processes do."""

    @pytest.fixture
    async def others(self, store: BlobStore) -> AsyncIterator[Arrivals]:
        others = Arrivals(BlobStore(store.root))
        yield others
        await others.close()

    async def test_one_fetches_and_the_other_follows_the_file(self, arrivals: Arrivals, others: Arrivals) -> None:
        source, unused = Source(), Source()
        first = await arrivals.join(DIGEST, None, source.fetch)
        await first.wait_begun()
        follower = await others.join(DIGEST, None, unused.fetch)
        blob = await follower.open()
        assert await blob.read(0, 10) == CONTENT[:10]
        source.gate.set()
        await blob.close()
        assert await read_all(follower) == CONTENT
        assert unused.offsets == []

    async def test_follower_takes_over_when_the_fetcher_dies(self, arrivals: Arrivals, others: Arrivals) -> None:
        source, heir = Source(), Source()
        heir.gate.set()
        await (await arrivals.join(DIGEST, None, source.fetch)).wait_begun()
        follower = await others.join(DIGEST, None, heir.fetch)
        reading = asyncio.create_task(read_all(follower))
        await (await follower.open()).close()
        await arrivals.close()
        assert await reading == CONTENT
        assert len(heir.offsets) == 1

    async def test_follower_of_bytes_that_were_dropped_gives_no_last_byte(
        self, arrivals: Arrivals, others: Arrivals, store: BlobStore
    ) -> None:
        """Between two looks the first fetch failed and a second one committed: other bytes, another file."""
        source = Source()
        await (await arrivals.join(DIGEST, None, source.fetch)).wait_begun()
        blob = await (await others.join(DIGEST, None, Source().fetch)).open()
        store.partial_path(DIGEST).rename(store.partial_path(DIGEST).with_name("dropped"))
        store.path(DIGEST).write_bytes(CONTENT)
        with pytest.raises(SourceError, match="another worker's fetch"):
            await blob.read(len(CONTENT) - 1, 1)
        await blob.close()

    async def test_killed_fetcher_leaves_bytes_that_the_next_goes_on_from(
        self, store: BlobStore, arrivals: Arrivals
    ) -> None:
        script = """
import asyncio, os, signal, sys
from pathlib import Path
from imagedist.oci.digest import Digest
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore

async def fetch(writer):
    await writer.begin(100_000)
    await writer.write(sys.stdin.buffer.read(60_000))
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    await (await Arrivals(BlobStore(Path(sys.argv[1]))).join(Digest.parse(sys.argv[2]), None, fetch)).wait()

asyncio.run(main())
"""
        killed = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script, str(store.root), str(DIGEST)], input=CONTENT, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        source = Source()
        source.gate.set()
        assert await read_all(await arrivals.join(DIGEST, None, source.fetch)) == CONTENT
        assert source.offsets == [60_000]
