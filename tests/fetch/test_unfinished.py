"""Pieces of a blob that was on its way when the agent ended are used by the next one, and never trusted unhashed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from imagedist.config import Address
from imagedist.errors import NotFoundError, SourceError
from imagedist.fetch.node import NodeBlobs
from imagedist.fetch.unfinished import KEPT_SECONDS
from imagedist.fetch.watch import Patience
from imagedist.site import Arriving
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.memory_session import MemorySession, MemorySwarm
from imagedist.swarm.torrent import piece_length
from tests.fetch.site import MemorySite
from tests.fetch.test_handover import TARGET, read_all
from tests.support.waiting import until
from tests.swarm.blobs import Blob, make_blob

SIZE_BYTES = 1_000_000
LENGTH = piece_length(SIZE_BYTES)
PATIENCE = Patience(stalled=30, alone=30, give_up=60, tick=0.02)


class World:
    """A node's directory, and a seeder from which its blobs come."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.swarm = MemorySwarm()
        self.site = MemorySite()
        self.root = directory / "node"

    def blob(self, seed: int = 1, size_bytes: int = SIZE_BYTES) -> Blob:
        return make_blob(self.directory / "seed", size_bytes, seed)

    async def seed(self, *blobs: Blob) -> None:
        session = await self.swarm.open(Address("127.0.0.1", 0), role="seeder")
        self.stack.push_async_callback(session.close)
        for blob in blobs:
            await session.add(blob.torrent, self.directory / "seed", seeding=True)

    @asynccontextmanager
    async def node(
        self, *, quota_bytes: int | None = None, kept_seconds: float = KEPT_SECONDS
    ) -> AsyncIterator[tuple[NodeBlobs, MemorySession]]:
        session = await self.swarm.open(Address("127.0.0.1", 0))
        site: Any = self.site
        blobs = NodeBlobs(self.root, quota_bytes, site, session, (), PATIENCE, kept_seconds=kept_seconds)
        await blobs.start()
        try:
            yield blobs, session
        finally:
            await blobs.close()
            await session.close()

    async def leave_half(self, blob: Blob) -> None:
        """A node that ends when the first eight pieces are there."""
        self.site.answers = [blob.torrent]
        async with self.node() as (blobs, session):
            opening = asyncio.create_task(blobs.open(TARGET, blob.digest))
            await until(lambda: session.get(blob.digest) is not None)
            transfer = session.get(blob.digest)
            assert transfer is not None
            for index in range(8):
                assert await transfer.give(index, blob.content[index * LENGTH : (index + 1) * LENGTH])
            await (await opening).close()

    @property
    def unfinished(self) -> set[str]:
        return {path.name for path in (self.root / "unfinished").iterdir()}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(tmp_path, stack)


async def fetch(blobs: NodeBlobs, blob: Blob) -> bytes:
    opened = await blobs.open(TARGET, blob.digest)
    try:
        return await read_all(opened, 100_000)
    finally:
        await opened.close()


async def test_the_next_process_takes_the_rest_only(world: World) -> None:
    blob = world.blob()
    await world.leave_half(blob)
    await world.seed(blob)
    async with world.node() as (blobs, _):
        assert world.unfinished == {blob.digest.hex}
        assert await fetch(blobs, blob) == blob.content
        assert dict(blobs.received_bytes) == {"disk": 8 * LENGTH, "seeder": SIZE_BYTES - 8 * LENGTH}
        assert world.unfinished == set()


async def test_what_had_come_by_http_is_used_by_the_swarm(world: World) -> None:
    blob = world.blob()
    world.site.answers = [Arriving(size=SIZE_BYTES, action="stream")]
    world.site.served[blob.digest] = blob.content
    world.site.gate.clear()
    async with world.node() as (blobs, _):
        opened = await blobs.open(TARGET, blob.digest)
        await until(lambda: blobs.received_bytes["proxy"] == SIZE_BYTES // 2)
    await opened.close()
    world.site.answers = [blob.torrent]
    await world.seed(blob)
    async with world.node() as (blobs, _):
        assert await fetch(blobs, blob) == blob.content
        kept_bytes = SIZE_BYTES // 2 // LENGTH * LENGTH
        assert dict(blobs.received_bytes) == {"disk": kept_bytes, "seeder": SIZE_BYTES - kept_bytes}
        assert list((world.root / "partial").iterdir()) == []
        assert SIZE_BYTES <= blobs.store.used_bytes < SIZE_BYTES + 10_000


async def test_a_piece_that_rotted_meanwhile_comes_again(world: World) -> None:
    blob = world.blob()
    await world.leave_half(blob)
    with (world.root / "swarm" / blob.digest.hex).open("r+b") as file:
        file.seek(3 * LENGTH + 5)
        file.write(b"\0\1\2")
    await world.seed(blob)
    async with world.node() as (blobs, _):
        assert await fetch(blobs, blob) == blob.content
        assert blobs.received_bytes["disk"] == 7 * LENGTH


async def test_peers_have_the_rest_though_the_site_cannot_be_asked(world: World) -> None:
    blob, unknown = world.blob(), world.blob(2)
    await world.leave_half(blob)
    await world.seed(blob, unknown)
    world.site.answers = [SourceError("no proxy answers")]
    async with world.node() as (blobs, _):
        assert await fetch(blobs, blob) == blob.content
        with pytest.raises(SourceError, match="no proxy"):
            await fetch(blobs, unknown)


async def test_it_survives_processes_that_do_not_want_it(world: World) -> None:
    blob = world.blob()
    await world.leave_half(blob)
    for _ in range(3):
        async with world.node() as (blobs, _):
            assert world.unfinished == {blob.digest.hex}
            assert blobs.store.used_bytes >= 8 * LENGTH


async def test_what_is_old_is_dropped_and_its_torrent(world: World) -> None:
    blob = world.blob()
    await world.leave_half(blob)
    for folder, kept_seconds in (("swarm", 3600.0), ("unfinished", 60.0)):
        path = world.root / folder / blob.digest.hex
        os.utime(path, (time.time() - 600, time.time() - 600))
        async with world.node(kept_seconds=kept_seconds) as (blobs, _):
            assert world.unfinished == ({blob.digest.hex} if folder == "swarm" else set())
    assert list((world.root / "torrents").iterdir()) == []
    assert blobs.store.used_bytes < 1000


async def test_a_file_of_holes_is_not_kept(world: World) -> None:
    blob = world.blob()
    await world.leave_half(blob)
    os.truncate(world.root / "swarm" / blob.digest.hex, 100 * SIZE_BYTES)
    async with world.node():
        assert world.unfinished == set()


async def test_it_goes_when_another_blob_needs_the_room(world: World) -> None:
    blob, other = world.blob(), world.blob(2)
    await world.leave_half(blob)
    await world.seed(other)
    world.site.answers = [other.torrent]
    async with world.node(quota_bytes=int(1.2 * SIZE_BYTES)) as (blobs, _):
        assert world.unfinished == {blob.digest.hex}
        assert await fetch(blobs, other) == other.content
        assert world.unfinished == set()


async def test_what_does_not_fit_into_the_quota_any_more_is_dropped(world: World) -> None:
    await world.leave_half(world.blob())
    async with world.node(quota_bytes=SIZE_BYTES // 4):
        assert world.unfinished == set()


async def test_a_blob_that_came_meanwhile_needs_its_pieces_no_more(world: World) -> None:
    blob = world.blob()
    await world.leave_half(blob)
    async with world.node() as (blobs, _):
        path = world.directory / "seed" / blob.digest.hex
        await blobs.store.adopt(path, blob.digest, SIZE_BYTES)
    async with world.node() as (blobs, _):
        assert world.unfinished == set()
        world.site.answers = [NotFoundError("nobody")]
        assert await fetch(blobs, blob) == blob.content


async def test_pieces_outlive_a_killed_process(tmp_path: Path) -> None:
    blob = make_blob(tmp_path / "seed", 20_000_000)
    torrent = tmp_path / f"{blob.digest.hex}.torrent"
    torrent.write_bytes(blob.torrent)
    root = tmp_path / "node"
    async with AsyncExitStack() as stack:
        seeder = await LibtorrentSession.open(Address("127.0.0.1", 0), role="seeder", upload=4_000_000)
        stack.push_async_callback(seeder.close)
        node = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fetch.killed_node", str(root), str(torrent), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert node.stdout is not None
            port = int(await node.stdout.readline())
            await seeder.add(blob.torrent, tmp_path / "seed", seeding=True, peers=[("127.0.0.2", port)])
            path = root / "swarm" / blob.digest.hex
            await until(lambda: path.exists() and path.stat().st_blocks * 512 > 4_000_000)
        finally:
            node.send_signal(signal.SIGKILL)
            await node.communicate()
        await seeder.remove(blob.digest)
        seeder.set_limits(None, None)

        session = await LibtorrentSession.open(Address("127.0.0.2", 0))
        stack.push_async_callback(session.close)
        site: Any = MemorySite([blob.torrent])
        blobs = NodeBlobs(root, None, site, session, (), PATIENCE)
        await blobs.start()
        opened = await blobs.open(TARGET, blob.digest)
        await until(lambda: session.get(blob.digest) is not None)
        await seeder.add(blob.torrent, tmp_path / "seed", seeding=True, peers=[session.address])
        assert await read_all(opened, 1 << 20) == blob.content
        await opened.close()
        assert blobs.received_bytes["disk"] > 1_000_000
        assert sum(blobs.received_bytes.values()) == len(blob.content)
        await blobs.close()
