"""Blobs at rest are read again, and dropped when they are not what they were."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from imagedist.locking import LockFile
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.scrub import Scrub, ScrubState

DAY = 24 * 3600.0


class Scrubbed:
    """A store with a few blobs, and its scrubbing with a clock of ours."""

    def __init__(self, root: Path, read: Callable[[int, int, int], bytes] = os.pread) -> None:
        self.store = BlobStore(root)
        self.now = 1_000_000.0
        self.paced_bytes = 0
        self.dropped: list[Digest] = []
        self.on_pace: Callable[[], Awaitable[None]] | None = None
        self.scrub = Scrub(
            self.store, 30 * DAY, self._pace, self._drop, clock=lambda: self.now, poll_seconds=0.01, read=read
        )

    async def _pace(self, size_bytes: int) -> None:
        self.paced_bytes += size_bytes
        if self.on_pace is not None:
            await self.on_pace()

    async def _drop(self, digest: Digest) -> None:
        self.dropped.append(digest)

    def put(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.store.path(digest).write_bytes(content)
        return digest


@pytest.fixture
async def scrubbed(tmp_path: Path) -> Scrubbed:
    return Scrubbed(tmp_path)


async def test_a_round_reads_every_blob_at_the_given_pace(scrubbed: Scrubbed) -> None:
    for n in range(5):
        scrubbed.put(bytes([n]) * 1_500_000)
    assert await scrubbed.scrub.run_if_due()
    state = scrubbed.scrub.state()
    assert (state.checked_blobs, state.checked_bytes, state.rotten_blobs) == (5, 7_500_000, 0)
    assert scrubbed.paced_bytes == 7_500_000
    assert (state.position, state.finished_at) == (None, scrubbed.now)


async def test_one_unreadable_blob_is_dropped_and_a_failing_disk_costs_no_more(tmp_path: Path) -> None:
    def read(descriptor: int, count: int, offset: int) -> bytes:
        raise OSError(error, os.strerror(error))

    scrubbed = Scrubbed(tmp_path, read)
    blobs = sorted(scrubbed.put(bytes([n])) for n in range(5))
    error = errno.ESTALE
    assert await scrubbed.scrub.run_if_due()
    assert scrubbed.dropped == []
    error = errno.EIO
    scrubbed.now += 30 * DAY
    assert await scrubbed.scrub.run_if_due()
    assert scrubbed.dropped == blobs[:1]
    assert all(scrubbed.store.path(digest).exists() for digest in blobs[1:])
    scrubbed.now += 30 * DAY
    assert await scrubbed.scrub.run_if_due()
    assert scrubbed.dropped == blobs[:2]


async def test_next_round_is_due_an_interval_after_the_last_began(scrubbed: Scrubbed) -> None:
    assert await scrubbed.scrub.run_if_due()
    scrubbed.now += 29 * DAY
    assert not await scrubbed.scrub.run_if_due()
    scrubbed.now += DAY
    assert await scrubbed.scrub.run_if_due()


async def test_what_rotted_goes_after_its_seeders_were_told(scrubbed: Scrubbed) -> None:
    good, bad, short = scrubbed.put(b"good"), scrubbed.put(b"was right"), scrubbed.put(b"was longer")
    scrubbed.store.path(bad).write_bytes(b"wus right")
    scrubbed.store.path(short).write_bytes(b"was")
    scrubbed.store.space.recount()
    told: list[tuple[Digest, bool]] = []

    async def may_evict(digest: Digest) -> bool:
        told.append((digest, scrubbed.store.has(digest)))
        return digest != short  # a seeder that does not answer cannot keep wrong bytes here

    scrubbed.store.space.may_evict = may_evict
    await scrubbed.scrub.run_if_due()
    assert sorted(told) == sorted([(bad, True), (short, True)])
    assert sorted(scrubbed.dropped) == sorted([bad, short])
    assert [scrubbed.store.has(digest) for digest in (good, bad, short)] == [True, False, False]
    assert scrubbed.store.used_bytes == len(b"good")
    assert scrubbed.scrub.state().rotten_blobs == 2


async def test_a_restarted_process_goes_on_where_the_last_one_was_killed(scrubbed: Scrubbed, tmp_path: Path) -> None:
    digests = sorted(scrubbed.put(bytes([n]) * 10) for n in range(10))
    state = ScrubState(position=str(digests[6]), checked_blobs=7, started_at=5.0)
    (tmp_path / "scrub").write_text(state.model_dump_json())
    restarted = Scrubbed(tmp_path)
    await restarted.scrub.run_if_due()
    assert restarted.paced_bytes == 30
    assert (restarted.scrub.state().checked_blobs, restarted.scrub.state().started_at) == (10, 5.0)


async def test_one_process_at_a_time(scrubbed: Scrubbed, tmp_path: Path) -> None:
    scrubbed.put(b"blob")
    other = Scrubbed(tmp_path)
    seen: list[tuple[bool, bool]] = []

    async def look() -> None:
        seen.append((other.scrub.is_running(), await other.scrub.run_if_due()))

    scrubbed.on_pace = look
    assert await scrubbed.scrub.run_if_due()
    assert seen == [(True, False)]
    assert not other.scrub.is_running()


async def test_a_round_is_asked_for_by_another_process(scrubbed: Scrubbed, tmp_path: Path) -> None:
    await scrubbed.scrub.run_if_due()
    finished = asyncio.Event()

    async def noticed() -> None:
        finished.set()

    scrubbed.on_pace = noticed
    scrubbed.put(b"blob")
    running = asyncio.create_task(scrubbed.scrub.run())
    await Scrubbed(tmp_path).scrub.want()
    await finished.wait()
    running.cancel()
    await asyncio.wait([running])
    assert not scrubbed.scrub.is_wanted()


async def test_blob_that_is_evicted_meanwhile_is_no_trouble(scrubbed: Scrubbed) -> None:
    digests = sorted(scrubbed.put(bytes([n]) * 10) for n in range(3))

    async def evict() -> None:
        scrubbed.store.path(digests[-1]).unlink(missing_ok=True)

    scrubbed.on_pace = evict
    await scrubbed.scrub.run_if_due()
    assert (scrubbed.scrub.state().rotten_blobs, scrubbed.paced_bytes) == (0, 20)


async def test_scrubbing_is_no_use_of_a_blob(scrubbed: Scrubbed) -> None:
    path = scrubbed.store.path(scrubbed.put(b"blob"))
    os.utime(path, (1000, 1000))
    await scrubbed.scrub.run_if_due()
    assert path.stat().st_atime == 1000


async def test_damaged_state_begins_a_new_round(scrubbed: Scrubbed, tmp_path: Path) -> None:
    (tmp_path / "scrub").write_text("{")
    LockFile(tmp_path / "scrub.lock").close()
    assert await scrubbed.scrub.run_if_due()
