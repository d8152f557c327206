"""Blobs come to a node once, by swarm or by HTTP, and whoever reads them gets right bytes or an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagedist.config import Address, SeedingTable
from imagedist.distribution.backend import Target
from imagedist.errors import ImagedistError, IntegrityError, NotFoundError, SourceError
from imagedist.fetch.node import NodeBlobs
from imagedist.fetch.watch import Patience
from imagedist.oci.digest import Digest
from imagedist.site import Arriving
from imagedist.store.reading import OpenBlob, deliver
from imagedist.swarm import torrent as rules
from imagedist.swarm.memory_session import MemorySession, MemorySwarm
from tests.fetch.site import WEB_SEED, MemorySite
from tests.swarm.blobs import Blob, make_blob

TARGET = Target("registry.example", "team/app")
SIZE_BYTES = 300_000
CALM = Patience(stalled=60, alone=60, hold=0.02, give_up=600, tick=0.01)
"""Whatever else the machine does, a swarm that has the blob is in time."""
HASTY = Patience(stalled=0.05, alone=0.02, hold=0.02, give_up=0.2, tick=0.01)
"""For swarms that bring nothing."""


class World:
    """One swarm with a seeder in it, and a node's directory; nodes are opened on it one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.swarm = MemorySwarm()

    def blob(self, seed: int = 1, size_bytes: int = SIZE_BYTES) -> Blob:
        return make_blob(self.directory / "seeder", size_bytes, seed)

    async def seed(self, *blobs: Blob) -> MemorySession:
        session = await self.swarm.open(Address("127.0.0.1", 0), role="seeder")
        for blob in blobs:
            await session.add(blob.torrent, self.directory / "seeder", seeding=True)
        return session

    @asynccontextmanager
    async def node(
        self,
        site: MemorySite,
        quota_bytes: int | None = None,
        seeding: SeedingTable = SeedingTable(),
        patience: Patience = CALM,
    ) -> AsyncIterator[tuple[NodeBlobs, MemorySession]]:
        session = await self.swarm.open(Address("127.0.0.1", 0))
        as_site: Any = site
        blobs = NodeBlobs(self.directory / "node", quota_bytes, as_site, session, (), patience, seeding)
        await blobs.start()
        try:
            yield blobs, session
        finally:
            await blobs.close()
            await session.close()

    @property
    def kept(self) -> set[str]:
        return {path.name for path in (self.directory / "node" / "blobs" / "sha256").iterdir()}

    @property
    def in_swarm(self) -> set[str]:
        return {path.name for path in (self.directory / "node" / "swarm").iterdir()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def read_all(blob: OpenBlob, step_bytes: int = 50_000) -> bytes:
    content = b""
    while chunk := await blob.read(len(content), step_bytes):
        content += chunk
    return content


async def fetch(blobs: NodeBlobs, digest: Digest) -> bytes:
    opened = await blobs.open(TARGET, digest)
    try:
        return await read_all(opened)
    finally:
        await opened.close()


async def delivered(blobs: NodeBlobs, digest: Digest) -> bytes:
    """What a puller's thread gets."""
    content = bytearray()
    opened = await blobs.open(TARGET, digest)
    try:
        with ThreadPoolExecutor(1) as threads:
            await deliver(opened, content.extend, threads)
    finally:
        await opened.close()
    return bytes(content)


@pytest.mark.parametrize("way", ["swarm", "http", "swarm, then http", "cache"])
async def test_a_puller_gets_every_byte_whichever_way_they_come(world: World, way: str) -> None:
    blob = world.blob()
    site = MemorySite([Arriving(size=SIZE_BYTES, action="stream", swarm=False) if way == "http" else blob.torrent])
    site.served[blob.digest] = blob.content
    if way != "swarm, then http":
        await world.seed(blob)
    patience = HASTY if way == "swarm, then http" else CALM
    async with world.node(site, patience=patience) as (blobs, _):
        if way == "cache":
            await fetch(blobs, blob.digest)
        assert await delivered(blobs, blob.digest) == blob.content
        assert world.kept == {blob.digest.hex}


async def test_many_askers_of_one_blob_bring_it_once_over_the_swarm(world: World) -> None:
    blob = world.blob()
    seeder = await world.seed(blob)
    async with world.node(MemorySite([blob.torrent])) as (blobs, session):
        contents = await asyncio.gather(*(fetch(blobs, blob.digest) for _ in range(20)))
        assert set(contents) == {blob.content}
        assert dict(blobs.received_bytes) == {"seeder": SIZE_BYTES}
        transfer = seeder.get(blob.digest)
        assert transfer is not None
        assert transfer.uploaded_bytes == SIZE_BYTES
        assert world.kept == world.in_swarm == {blob.digest.hex}
        assert session.get(blob.digest) is not None


async def test_a_small_blob_comes_with_the_first_answer(world: World) -> None:
    blob = world.blob(size_bytes=10_000)
    site = MemorySite()
    site.small = blob.content
    async with world.node(site) as (blobs, session):
        assert await fetch(blobs, blob.digest) == blob.content
        assert world.kept == {blob.digest.hex}
        assert session.transfers() == ()
        assert dict(blobs.received_bytes) == {"proxy": 10_000}


async def test_a_small_blob_that_is_another_one_is_refused(world: World) -> None:
    blob = world.blob(size_bytes=10_000)
    site = MemorySite()
    site.small = b"x" * 10_000
    async with world.node(site) as (blobs, _):
        with pytest.raises(IntegrityError):
            await fetch(blobs, blob.digest)
        assert world.kept == set()


async def test_a_first_wave_node_streams_by_http_and_seeds_when_the_torrent_exists(world: World) -> None:
    blob = world.blob()
    site = MemorySite([Arriving(size=SIZE_BYTES, action="stream"), blob.torrent])
    site.served[blob.digest] = blob.content
    async with world.node(site) as (blobs, session):
        assert await fetch(blobs, blob.digest) == blob.content
        while session.get(blob.digest) is None:
            await world.swarm.change()
        assert dict(blobs.received_bytes) == {"proxy": SIZE_BYTES}


async def test_the_last_byte_waits_for_the_digest_and_never_comes_when_that_is_wrong(world: World) -> None:
    blob = world.blob()
    site = MemorySite([Arriving(size=SIZE_BYTES, action="stream", swarm=False)])
    site.served[blob.digest] = blob.content[:-2] + b"xx"
    async with world.node(site) as (blobs, _):
        opened = await blobs.open(TARGET, blob.digest)

        async def read_to_the_end() -> None:
            assert len(await opened.read(0, SIZE_BYTES)) < SIZE_BYTES
            await opened.read(SIZE_BYTES - 1, 1)

        with pytest.raises(IntegrityError):  # on a busy machine even before the first read
            await read_to_the_end()
        await opened.close()
        assert world.kept == set()


async def test_nobody_has_it_is_told_to_every_asker_and_the_next_one_asks_again(world: World) -> None:
    blob = world.blob()
    site = MemorySite()
    async with world.node(site) as (blobs, _):
        answers = await asyncio.gather(*(fetch(blobs, blob.digest) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotFoundError] * 3
        site.answers, site.served = (
            [Arriving(size=SIZE_BYTES, action="stream", swarm=False)],
            {blob.digest: blob.content},
        )
        assert await fetch(blobs, blob.digest) == blob.content


async def test_a_node_alone_in_its_swarm_takes_the_web_seed(world: World) -> None:
    blob = world.blob()
    world.swarm.web[WEB_SEED] = blob.content
    async with world.node(MemorySite([blob.torrent]), patience=replace(CALM, alone=0.02)) as (blobs, _):
        assert await fetch(blobs, blob.digest) == blob.content
        assert dict(blobs.received_bytes) == {"webseed": SIZE_BYTES}


async def test_a_node_with_peers_that_send_never_asks_the_web_seed(world: World) -> None:
    blob = world.blob()
    await world.seed(blob)
    world.swarm.web[WEB_SEED] = b"wrong"
    async with world.node(MemorySite([blob.torrent])) as (blobs, _):
        assert await fetch(blobs, blob.digest) == blob.content
        assert blobs.received_bytes["webseed"] == 0


async def test_a_swarm_in_which_nothing_moves_is_given_up_for_http(world: World) -> None:
    blob = world.blob()
    site = MemorySite([blob.torrent])
    site.served[blob.digest] = blob.content
    async with world.node(site, patience=HASTY) as (blobs, session):  # no seeder, and the web seed does not answer
        assert await fetch(blobs, blob.digest) == blob.content
        assert session.get(blob.digest) is None
        assert world.in_swarm == set()


async def test_a_reader_goes_on_by_http_where_the_swarm_left_it(world: World) -> None:
    blob = world.blob()
    site = MemorySite([blob.torrent])
    site.served[blob.digest] = blob.content
    await world.seed(blob)
    async with world.node(site) as (blobs, session):
        opened = await blobs.open(TARGET, blob.digest)
        begun = await opened.read(0, 1000)
        world.swarm.stall()
        await session.remove(blob.digest)
        rest = b""
        while chunk := await opened.read(len(begun) + len(rest), 50_000):
            rest += chunk
        assert begun + rest == blob.content
        await opened.close()


def forged(directory: Path, digest: Digest, size_bytes: int) -> tuple[bytes, bytes]:
    """Other bytes and their well-formed torrent under a blob's name."""
    path = directory / digest.hex
    directory.mkdir()
    path.write_bytes(b"\x01" * size_bytes)
    return path.read_bytes(), rules.build(path, digest)


async def test_no_reader_gets_a_whole_of_two_blobs_when_the_torrent_is_wrong(world: World, tmp_path: Path) -> None:
    blob = world.blob()
    other, torrent = forged(tmp_path / "forged", blob.digest, SIZE_BYTES)
    attacker = await world.swarm.open(Address("127.0.0.1", 0))
    await attacker.add(torrent, tmp_path / "forged", seeding=True)
    site = MemorySite([torrent])
    site.served[blob.digest] = blob.content
    site.gate.clear()
    async with world.node(site) as (blobs, _):
        early = await blobs.open(TARGET, blob.digest)
        assert await early.read(0, 1000) == other[:1000]
        await site.asked.wait()
        late = await blobs.open(TARGET, blob.digest)
        site.gate.set()
        assert await read_all(late) == blob.content
        with pytest.raises(IntegrityError, match="of other bytes"):
            await early.read(SIZE_BYTES - 1, 1)
        await early.close()
        await late.close()
        assert world.kept == {blob.digest.hex}
        assert world.in_swarm == set()


async def test_a_torrent_of_another_blob_is_not_even_joined(world: World) -> None:
    blob, another = world.blob(), world.blob(seed=2)
    site = MemorySite([another.torrent])
    site.served[blob.digest] = blob.content
    async with world.node(site) as (blobs, session):
        assert await fetch(blobs, blob.digest) == blob.content
        assert session.transfers() == ()


async def test_the_oldest_blob_goes_from_cache_and_swarm_when_the_quota_is_reached(world: World) -> None:
    first, second = world.blob(1), world.blob(2)
    await world.seed(first, second)
    async with world.node(MemorySite([first.torrent, second.torrent]), int(1.5 * SIZE_BYTES)) as (blobs, session):
        await fetch(blobs, first.digest)
        assert await fetch(blobs, second.digest) == second.content
        assert session.get(first.digest) is None
        assert world.kept == world.in_swarm == {second.digest.hex}


async def test_a_slow_reader_keeps_its_blob_when_the_cache_evicts_it(world: World) -> None:
    first, second = world.blob(1), world.blob(2)
    await world.seed(first, second)
    async with world.node(MemorySite([first.torrent, second.torrent]), int(1.5 * SIZE_BYTES)) as (blobs, _):
        slow = await blobs.open(TARGET, first.digest)
        begun = await slow.read(0, 1000)
        await fetch(blobs, first.digest)
        await fetch(blobs, second.digest)
        assert world.kept == {second.digest.hex}
        assert begun + await slow.read(1000, SIZE_BYTES) == first.content
        await slow.close()


@pytest.mark.parametrize("way", ["swarm", "http"])
async def test_a_blob_beyond_the_quota_passes_through_by_http_and_leaves_nothing(world: World, way: str) -> None:
    blob = world.blob()
    await world.seed(blob)
    site = MemorySite([Arriving(size=SIZE_BYTES, action="stream", swarm=False) if way == "http" else blob.torrent])
    site.served[blob.digest] = blob.content
    async with world.node(site, quota_bytes=SIZE_BYTES - 1) as (blobs, session):
        contents = await asyncio.gather(*(fetch(blobs, blob.digest) for _ in range(5)), delivered(blobs, blob.digest))
        assert set(contents) == {blob.content}
        assert world.kept == world.in_swarm == set()
        assert session.get(blob.digest) is None
        assert await fetch(blobs, blob.digest) == blob.content  # and again


async def test_a_restarted_node_seeds_what_it_has_and_drops_what_was_unfinished(world: World) -> None:
    blob, unfinished = world.blob(1), world.blob(2)
    await world.seed(blob)
    async with world.node(MemorySite([blob.torrent])) as (blobs, _):
        await fetch(blobs, blob.digest)
    (world.directory / "node" / "swarm" / unfinished.digest.hex).write_bytes(b"pieces")
    async with world.node(MemorySite()) as (blobs, session):
        transfer = session.get(blob.digest)
        assert transfer is not None
        assert transfer.status().is_complete
        assert world.in_swarm == {blob.digest.hex}
        assert await fetch(blobs, blob.digest) == blob.content


async def test_a_blob_whose_seeding_is_over_is_seeded_again_once_it_is_read(world: World) -> None:
    blob = world.blob()
    await world.seed(blob)
    async with world.node(MemorySite([blob.torrent])) as (blobs, _):
        await fetch(blobs, blob.digest)
    async with world.node(MemorySite(), seeding=SeedingTable.model_validate({"time": "1ms"})) as (blobs, session):
        assert session.get(blob.digest) is None
        assert await fetch(blobs, blob.digest) == blob.content
        while session.get(blob.digest) is None:
            await world.swarm.change()


async def test_a_stopping_node_tells_its_readers(world: World) -> None:
    blob = world.blob()
    site = MemorySite([Arriving(size=SIZE_BYTES, action="stream")])
    site.served[blob.digest] = blob.content
    site.gate.clear()
    async with world.node(site) as (blobs, _):
        opened = await blobs.open(TARGET, blob.digest)
        reading = asyncio.create_task(read_all(opened))
        await site.asked.wait()
    with pytest.raises(SourceError, match="stopped"):
        await reading
    await opened.close()
    assert world.kept == set()


async def test_a_broken_body_is_an_error_for_the_reader_and_is_resumed_by_the_next(world: World) -> None:
    blob = world.blob()
    site = MemorySite([Arriving(size=SIZE_BYTES, action="stream", swarm=False)])
    site.served[blob.digest] = blob.content
    site.cut = SIZE_BYTES // 2
    async with world.node(site) as (blobs, _):
        with pytest.raises(ImagedistError, match="broke off"):
            await fetch(blobs, blob.digest)
        site.cut = None
        assert await fetch(blobs, blob.digest) == blob.content
        assert blobs.received_bytes["proxy"] == SIZE_BYTES
