"""No room: the bytes go on to who reads, verified as ever, and nothing is stored."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imagedist.errors import FullError, IntegrityError, SourceError
from imagedist.oci.digest import Digest
from imagedist.store.arrival import Arrival
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.reading import OpenBlob
from imagedist.store.window import Window
from imagedist.store.writer import BlobWriter

CONTENT = os.urandom(9 << 20)
DIGEST = Digest.of(CONTENT)
STEP_BYTES = 256 << 10


async def send(writer: BlobWriter, content: bytes = CONTENT) -> None:
    await writer.begin(len(content))
    for start in range(writer.offset, len(content), STEP_BYTES):
        await writer.write(content[start : start + STEP_BYTES])


async def read_on(blob: OpenBlob, offset: int = 0) -> bytes:
    parts = []
    while offset < blob.size_bytes:
        span = await blob.span(offset)
        if span is not None:
            part = await asyncio.to_thread(os.pread, span.file.fileno(), span.end - offset, offset)
        else:
            part = await blob.read(offset, 100_000)
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


async def read_all(arrival: Arrival) -> bytes:
    blob = await arrival.open()
    try:
        return await read_on(blob)
    finally:
        await blob.close()


class TestNoQuota:
    @pytest.fixture
    async def store(self, tmp_path: Path) -> BlobStore:
        return BlobStore(tmp_path, quota_bytes=1 << 20)

    @pytest.fixture
    async def arrivals(self, store: BlobStore) -> AsyncIterator[Arrivals]:
        arrivals = Arrivals(store)
        yield arrivals
        await arrivals.close()

    async def test_all_who_ask_together_share_one_fetch(self, arrivals: Arrivals, store: BlobStore) -> None:
        fetches = 0

        async def fetch(writer: BlobWriter) -> None:
            nonlocal fetches
            fetches += 1
            await send(writer)

        arrival = await arrivals.join(DIGEST, None, fetch)
        others = [await arrivals.join(DIGEST, None, fetch) for _ in range(20)]
        assert set(await asyncio.gather(*(read_all(one) for one in (arrival, *others)))) == {CONTENT}
        assert fetches == 1
        assert (arrival.is_verified, arrival.is_committed, store.has(DIGEST)) == (True, False, False)
        assert list((store.root / "partial").iterdir()) == []
        assert store.used_bytes == 0
        with pytest.raises(FullError, match="no room to store blob"):
            await arrival.wait()

    async def test_last_byte_is_withheld_until_the_digest_matched(self, arrivals: Arrivals) -> None:
        wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
        blob = await (await arrivals.join(DIGEST, None, lambda writer: send(writer, wrong))).open()
        offset = 0
        while offset < len(wrong) - 1:
            offset += len(await blob.read(offset, 1 << 20))
        assert offset == len(wrong) - 1
        with pytest.raises(IntegrityError, match="wrong bytes"):
            await blob.read(offset, 1)
        await blob.close()

    async def test_part_from_the_middle_is_given(self, arrivals: Arrivals) -> None:
        blob = await (await arrivals.join(DIGEST, None, send)).open()
        assert await read_on(blob, 5_000_000) == CONTENT[5_000_000:]
        await blob.close()

    async def test_who_comes_when_the_first_bytes_are_gone_gets_a_fetch_of_his_own(self, arrivals: Arrivals) -> None:
        first = await arrivals.join(DIGEST, None, send)
        blob = await first.open()
        got = b""
        while len(got) < 8 << 20:
            got += await blob.read(len(got), 1 << 20)
        assert arrivals.get(DIGEST) is None
        second = await arrivals.join(DIGEST, None, send)
        assert second is not first
        assert await read_all(second) == CONTENT
        assert got + await read_on(blob, len(got)) == CONTENT
        await blob.close()

    async def test_memory_is_bounded_while_a_reader_is_slow(self, arrivals: Arrivals) -> None:
        arrival = await arrivals.join(DIGEST, None, send)
        blob = await arrival.open()
        await blob.read(0, 1)
        for _ in range(200):
            await asyncio.sleep(0)
        assert arrival.window is not None
        assert arrival.window.end - arrival.window.start <= 4 << 20
        assert await read_on(blob) == CONTENT
        await blob.close()

    async def test_leftover_of_an_earlier_fetch_is_given_first_and_removed(
        self, arrivals: Arrivals, store: BlobStore
    ) -> None:
        store.partial_path(DIGEST).write_bytes(CONTENT[:600_000])
        offsets: list[int] = []

        async def fetch(writer: BlobWriter) -> None:
            offsets.append(writer.offset)
            await send(writer)

        arrival = await arrivals.join(DIGEST, None, fetch)
        assert set(await asyncio.gather(read_all(arrival), read_all(arrival))) == {CONTENT}
        assert offsets == [600_000]
        assert list((store.root / "partial").iterdir()) == []

    async def test_next_one_is_stored_when_there_is_room_again(self, arrivals: Arrivals, store: BlobStore) -> None:
        assert await read_all(await arrivals.join(DIGEST, None, send)) == CONTENT
        store.space.quota_bytes = None
        assert await read_all(await arrivals.join(DIGEST, None, send)) == CONTENT
        assert store.has(DIGEST)

    async def test_two_processes_pass_it_on_each_by_itself(self, arrivals: Arrivals, store: BlobStore) -> None:
        others = Arrivals(BlobStore(store.root, quota_bytes=1 << 20))
        both = [await arrivals.join(DIGEST, None, send), await others.join(DIGEST, None, send)]
        assert await asyncio.gather(*map(read_all, both)) == [CONTENT, CONTENT]
        await others.close()


class TestWindow:
    async def test_laggard_is_cut_off_when_others_wait(self) -> None:
        window = Window(0, lambda: None, 4, patience_seconds=0.01)
        window.join("fast", 0)
        window.join("slow", 0)
        await window.put(b"ab")
        await window.put(b"cd")
        window.join("fast", 4)
        await window.put(b"ef")
        assert (window.read("fast", 4, 10), window.start) == (b"ef", 2)
        with pytest.raises(SourceError, match="too slow"):
            window.read("slow", 0, 1)

    async def test_who_trickles_is_cut_off_as_well(self) -> None:
        window = Window(0, lambda: None, 4, patience_seconds=0.05)
        window.join("fast", 0)
        window.join("slow", 0)
        await window.put(b"abcd")
        window.join("fast", 4)

        async def trickle() -> None:
            while True:
                window.read("slow", 0, 1)
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        await window.put(b"ef")
        with pytest.raises(SourceError, match="too slow"):
            await trickling

    async def test_nobody_is_cut_off_when_all_are_slow(self) -> None:
        window = Window(0, lambda: None, 2, patience_seconds=0.01)
        window.join("one", 0)
        await window.put(b"ab")
        putting = asyncio.create_task(window.put(b"cd"))
        done, _ = await asyncio.wait([putting], timeout=0.05)
        assert not done
        window.join("one", 2)
        await putting
        assert window.read("one", 2, 1) == b"c"

    async def test_without_readers_the_writer_gives_up(self) -> None:
        window = Window(0, lambda: None, 2, patience_seconds=0.01, stall_seconds=0.02)
        await window.put(b"ab")
        with pytest.raises(SourceError, match="nobody reads"):
            await window.put(b"cd")


@pytest.mark.root
class TestFullDisk:
    """A real file system of 16 MiB, filled by somebody else."""

    @pytest.fixture(params=["tmpfs", "ext4"])
    def disk(self, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
        disk = tmp_path / "disk"
        disk.mkdir()
        if request.param == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
        else:
            with (tmp_path / "image").open("wb") as image:
                image.truncate(24 << 20)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(tmp_path / "image")], check=True)
            command = ["mount", "-o", "loop", str(tmp_path / "image"), str(disk)]
        subprocess.run(command, check=True)
        yield disk
        gc.collect()  # stores hold their ledgers open
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

    @staticmethod
    def fill(disk: Path, left_bytes: int) -> Path:
        """Leaves so many bytes."""
        ballast = disk / "ballast"
        status = os.statvfs(disk)
        with ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left_bytes)
        return ballast

    @staticmethod
    def wait_synced(store: BlobStore) -> None:
        deadline = time.monotonic() + 60
        while any((store.root / "unsynced").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    async def test_disk_that_fills_while_a_blob_arrives_does_not_stop_it(self, disk: Path) -> None:
        store = BlobStore(disk / "store")
        arrivals = Arrivals(store)

        async def fetch(writer: BlobWriter) -> None:
            await writer.begin(len(CONTENT))
            await writer.write(CONTENT[: 1 << 20])
            await asyncio.to_thread(self.fill, disk, 2 << 20)
            await send(writer)

        arrival = await arrivals.join(DIGEST, None, fetch)
        assert set(await asyncio.gather(*(read_all(arrival) for _ in range(5)))) == {CONTENT}
        assert not store.has(DIGEST)
        assert list((store.root / "partial").iterdir()) == []
        assert store.used_bytes == store.space.recount().used_bytes == 0

    async def test_least_recently_used_blobs_make_way_first(self, disk: Path) -> None:
        store = BlobStore(disk / "store")
        old = Digest.of(CONTENT[: 5 << 20])
        arrivals = Arrivals(store)
        await (await arrivals.join(old, None, lambda writer: send(writer, CONTENT[: 5 << 20]))).wait()
        await asyncio.to_thread(self.wait_synced, store)  # while that goes on, unlinking frees nothing
        await asyncio.to_thread(self.fill, disk, 6 << 20)
        await (await arrivals.join(DIGEST, None, send)).wait()
        assert (store.has(old), store.has(DIGEST)) == (False, True)
        assert store.used_bytes == len(CONTENT)

    async def test_headroom_is_kept_although_nobody_set_a_quota(self, disk: Path) -> None:
        store = BlobStore(disk / "store", headroom_bytes=4 << 20)
        arrivals = Arrivals(store)
        for n in range(6):
            content = bytes([n]) * (3 << 20)
            await (await arrivals.join(Digest.of(content), None, lambda writer, it=content: send(writer, it))).wait()
        assert store.space.free_bytes >= 4 << 20
        assert 1 < len(list((store.root / "blobs" / "sha256").iterdir())) < 6

    async def test_disk_without_a_single_free_block_still_serves(self, disk: Path) -> None:
        store = BlobStore(disk / "store")
        await asyncio.to_thread(self.fill, disk, 64 << 10)
        with (disk / "rest").open("ab", buffering=0) as rest:
            while True:
                try:
                    rest.write(b"x" * 4096)
                except OSError:
                    break
        assert await read_all(await Arrivals(store).join(DIGEST, None, send)) == CONTENT
        assert store.space.recount().used_bytes == 0
