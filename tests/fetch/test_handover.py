"""A node that streams a blob by HTTP goes on by the swarm, and whoever reads does not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from imagedist.config import Address
from imagedist.distribution.backend import Target
from imagedist.errors import IntegrityError, SourceError
from imagedist.fetch.handover import Pace
from imagedist.fetch.node import NodeBlobs
from imagedist.fetch.watch import Patience
from imagedist.oci.digest import Digest
from imagedist.site import Arriving, FoundTorrent
from imagedist.store.reading import OpenBlob
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.memory_session import MemorySession, MemorySwarm
from imagedist.swarm.torrent import piece_length
from tests.fetch.site import MemorySite
from tests.support.waiting import until
from tests.swarm.blobs import make_blob, make_directory

TARGET = Target("registry.example", "team/app")
SIZE_BYTES = 2_000_000
HALF_BYTES = SIZE_BYTES // 2
GIVEN_BYTES = HALF_BYTES - HALF_BYTES % piece_length(SIZE_BYTES)
PACE = Pace(linger=0.0, tick=0.01, nearly=0.0, stalled=60.0)
PATIENCE = Patience(stalled=0.3, alone=0.3, hold=0.05, give_up=60, tick=0.02)

Session: TypeAlias = MemorySession | LibtorrentSession


class World:
    """A swarm around one node. Its site has sent half of a blob by HTTP and pauses."""

    def __init__(self, directory: Path, stack: AsyncExitStack, kind: str) -> None:
        self.directory = directory
        self.stack = stack
        self.swarm = MemorySwarm() if kind == "memory" else None
        self.blob = make_blob(directory / "seed", SIZE_BYTES)
        self.site = MemorySite([Arriving(size=SIZE_BYTES, action="stream"), self.blob.torrent])
        self.site.served[self.blob.digest] = self.blob.content
        self.site.gate.clear()
        self.pace = PACE
        self._hosts = iter(range(1, 100))

    async def session(self) -> Session:
        address = Address(f"127.0.0.{next(self._hosts)}", 0)
        session: Session
        if self.swarm is not None:
            session = await self.swarm.open(address)
        else:
            session = await LibtorrentSession.open(address)
        self.stack.push_async_callback(session.close)
        return session

    @asynccontextmanager
    async def node(self) -> AsyncIterator[tuple[NodeBlobs, Session]]:
        session, as_site = await self.session(), self.site
        site: Any = as_site
        blobs = NodeBlobs(self.directory / "node", None, site, session, (), PATIENCE, pace=self.pace)
        await blobs.start()
        try:
            yield blobs, session
        finally:
            await blobs.close()

    async def joined(self, session: Session) -> None:
        """The node knows the torrent, and its peers may come."""
        await until(lambda: session.get(self.blob.digest) is not None)

    async def seed(self, session: Session, given_bytes: int = 0) -> None:
        """Two others want the blob, says the tracker, and one that has it comes to the node.

        Args:
            given_bytes: only when so many pieces that came by HTTP are in the swarm.
        """
        self.site.leechers = 2
        await self.joined(session)
        given = session.get(self.blob.digest)
        assert given is not None
        if given_bytes:
            await until(lambda: given.status().present_bytes >= given_bytes)
        seeder = await self.session()
        await seeder.add(self.blob.torrent, self.directory / "seed", seeding=True, peers=[session.address])

    @property
    def kept(self) -> set[str]:
        return {path.name for path in (self.directory / "node" / "blobs" / "sha256").iterdir()}

    @property
    def partial(self) -> set[str]:
        return {path.name for path in (self.directory / "node" / "partial").iterdir()}


@pytest.fixture(params=["memory", "libtorrent"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(tmp_path, stack, request.param)


async def read_all(blob: OpenBlob, step_bytes: int = 10_000) -> bytes:
    content = b""
    while chunk := await blob.read(len(content), step_bytes):
        content += chunk
    return content


async def test_as_soon_as_others_want_the_blob_the_rest_comes_by_the_swarm(world: World) -> None:
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        reading = asyncio.create_task(read_all(opened))
        await world.seed(session, given_bytes=GIVEN_BYTES)
        assert await reading == world.blob.content
        received = blobs.received_bytes
        by_swarm = received["peer"] + received["seeder"]
        assert received["proxy"] == HALF_BYTES
        assert by_swarm == SIZE_BYTES - GIVEN_BYTES  # no byte twice, but for the piece in which HTTP ended
        await opened.close()
        assert world.kept == {world.blob.digest.hex}
        assert world.partial == set()
        transfer = session.get(world.blob.digest)
        assert transfer is not None
        assert transfer.status().is_complete


async def test_what_came_by_http_is_given_to_others_in_the_middle_of_it(world: World) -> None:
    world.site.leechers = 2
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        await world.joined(session)
        other = await world.session()
        folder = make_directory(world.directory / "other")
        transfer = await other.add(world.blob.torrent, folder, peers=[session.address])
        for index in (0, 14):
            piece = world.blob.content[index * transfer.piece_length :][: transfer.piece_length]
            assert await transfer.piece(index) == piece
        world.site.gate.set()
        assert await read_all(opened) == world.blob.content
        await opened.close()


@pytest.mark.parametrize("leechers", [1, SourceError("the tracker is down")])
async def test_a_node_whose_blob_few_want_goes_on_by_http_and_seeds_it_then(
    world: World, leechers: int | Exception
) -> None:
    world.site.leechers = leechers
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        assert await opened.read(0, 1000) == world.blob.content[:1000]
        world.site.gate.set()
        assert await read_all(opened) == world.blob.content
        await opened.close()
        await until(lambda: (found := session.get(world.blob.digest)) is not None and found.status().is_complete)
        assert dict(blobs.received_bytes) == {"proxy": SIZE_BYTES}


async def test_a_stream_that_is_nearly_over_goes_on(world: World) -> None:
    world.site.pause_at = SIZE_BYTES - SIZE_BYTES // 20
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        await until(lambda: blobs.received_bytes["proxy"] == world.site.pause_at)
        assert session.get(world.blob.digest) is None
        world.site.gate.set()
        assert await read_all(opened) == world.blob.content
        await opened.close()
        assert blobs.received_bytes["proxy"] == SIZE_BYTES


async def test_when_http_breaks_off_the_swarm_has_the_rest(world: World) -> None:
    world.site.cut = SIZE_BYTES * 3 // 4
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        reading = asyncio.create_task(read_all(opened))
        await world.site.asked.wait()
        world.site.gate.set()
        await world.seed(session)
        assert await reading == world.blob.content
        await opened.close()
        assert world.kept == {world.blob.digest.hex}


async def test_when_http_brings_nothing_the_swarm_has_the_rest_whoever_is_in_it(world: World) -> None:
    world.pace = replace(PACE, stalled=0.2)
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        reading = asyncio.create_task(read_all(opened))
        await world.joined(session)
        seeder = await world.session()
        await seeder.add(world.blob.torrent, world.directory / "seed", seeding=True, peers=[session.address])
        assert await reading == world.blob.content
        await opened.close()
        assert blobs.received_bytes["proxy"] == HALF_BYTES


async def test_a_proxy_that_goes_before_anybody_looked_is_not_missed(world: World) -> None:
    world.site.answers = [FoundTorrent(world.blob.torrent, action="stream")]
    world.site.cut = HALF_BYTES
    world.pace = replace(PACE, linger=60.0)
    world.site.gate.set()
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        reading = asyncio.create_task(read_all(opened))
        await world.joined(session)
        seeder = await world.session()
        await seeder.add(world.blob.torrent, world.directory / "seed", seeding=True, peers=[session.address])
        assert await reading == world.blob.content
        await opened.close()


async def test_when_the_swarm_fails_after_that_http_has_it_again(world: World) -> None:
    world.site.leechers = 2
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        begun = await opened.read(0, 100_000)
        await world.joined(session)
        # One more piece than came by HTTP, from another: now the node goes on by the swarm, and there it ends.
        other = await world.session()
        folder = make_directory(world.directory / "other")
        transfer = await other.add(world.blob.torrent, folder, peers=[session.address])
        length = transfer.piece_length
        assert await transfer.give(25, world.blob.content[25 * length : 26 * length])
        await until(lambda: blobs.received_bytes["peer"] > 0)
        world.site.gate.set()
        await session.remove(world.blob.digest)
        rest = b""
        while chunk := await opened.read(len(begun) + len(rest), 50_000):
            rest += chunk
        assert begun + rest == world.blob.content
        await opened.close()


async def test_nobody_who_began_with_wrong_bytes_by_http_gets_the_last_one(world: World) -> None:
    content = bytearray(world.blob.content)
    content[1000] ^= 1
    world.site.served[world.blob.digest] = bytes(content)
    async with world.node() as (blobs, session):
        early = await blobs.open(TARGET, world.blob.digest)
        assert await early.read(0, 10_000) == content[:10_000]
        late = await blobs.open(TARGET, world.blob.digest)
        await world.seed(session)
        with pytest.raises(IntegrityError, match="other bytes"):
            await early.read(SIZE_BYTES - 1, 1)
        assert await late.read(SIZE_BYTES - 1, 1) == world.blob.content[-1:]
        assert world.kept == {world.blob.digest.hex}
        await early.close()
        await late.close()


async def test_a_node_that_stops_in_the_middle_tells_its_readers(world: World) -> None:
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        reading = asyncio.create_task(read_all(opened))
        world.site.leechers = 2
        await world.joined(session)
    with pytest.raises(SourceError, match="stopped"):
        await reading
    await opened.close()
    assert world.kept == set()


async def test_a_reader_that_leaves_meanwhile_disturbs_nobody(world: World) -> None:
    async with world.node() as (blobs, session):
        leaving, staying = [await blobs.open(TARGET, world.blob.digest) for _ in range(2)]
        reading = [asyncio.create_task(read_all(opened)) for opened in (leaving, staying)]
        reading[0].cancel()
        await asyncio.wait([reading[0]])
        await leaving.close()
        await world.seed(session)
        assert await reading[1] == world.blob.content
        await staying.close()


@pytest.mark.parametrize("is_told_at_once", [False, True])
async def test_a_site_that_names_another_torrent_is_not_followed(world: World, is_told_at_once: bool) -> None:
    other = make_blob(world.directory / "another", 300_000, 2)
    if is_told_at_once:
        world.site.answers = [FoundTorrent(other.torrent, action="stream")]
    else:
        world.site.answers[1] = other.torrent
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        world.site.gate.set()
        assert await read_all(opened) == world.blob.content
        await opened.close()
        assert session.get(world.blob.digest) is None


async def test_a_tracker_that_is_down_for_a_moment_is_asked_again(world: World) -> None:
    world.site.leechers = SourceError("the tracker restarts")
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        reading = asyncio.create_task(read_all(opened))
        await until(lambda: world.site.scrapes > 1)
        await world.seed(session)
        assert await reading == world.blob.content
        await opened.close()
        assert blobs.received_bytes["proxy"] == HALF_BYTES


async def test_when_nobody_ever_has_the_torrent_http_has_the_blob(world: World) -> None:
    world.site.answers[1] = SourceError("the proxy restarts")
    async with world.node() as (blobs, _):
        opened = await blobs.open(TARGET, world.blob.digest)
        world.site.gate.set()
        assert await read_all(opened) == world.blob.content
        await opened.close()


@pytest.mark.parametrize(("seeds", "leechers", "way"), [(1, 1, "http"), (3, 0, "http"), (1, 2, "swarm")])
async def test_one_of_few_that_want_a_blob_streams_it_even_if_other_nodes_have_it(
    world: World, seeds: int, leechers: int, way: str
) -> None:
    world.site.answers = [FoundTorrent(world.blob.torrent, action="stream")]
    world.site.seeds, world.site.leechers = seeds, leechers
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        if way == "swarm":
            await world.joined(session)
            seeder = await world.session()
            await seeder.add(world.blob.torrent, world.directory / "seed", seeding=True, peers=[session.address])
        world.site.gate.set()
        assert await read_all(opened) == world.blob.content
        await opened.close()
        assert blobs.received_bytes["proxy"] == (SIZE_BYTES if way == "http" else 0)


async def test_a_long_stream_goes_on_by_the_swarm_when_another_node_has_the_blob(world: World) -> None:
    world.pace = replace(PACE, long=0.0)
    world.site.seeds = 2
    async with world.node() as (blobs, session):
        opened = await blobs.open(TARGET, world.blob.digest)
        await world.joined(session)
        seeder = await world.session()
        await seeder.add(world.blob.torrent, world.directory / "seed", seeding=True, peers=[session.address])
        assert await read_all(opened) == world.blob.content
        await opened.close()
        assert blobs.received_bytes["proxy"] == HALF_BYTES


async def test_one_of_few_streams_although_the_tracker_is_down(world: World) -> None:
    world.site.answers = [FoundTorrent(world.blob.torrent, action="stream")]
    world.site.leechers = SourceError("the tracker is down")
    world.site.gate.set()
    async with world.node() as (blobs, _):
        opened = await blobs.open(TARGET, world.blob.digest)
        assert await read_all(opened) == world.blob.content
        await opened.close()
        assert blobs.received_bytes["proxy"] == SIZE_BYTES


class Slow:
    """A session that adds a torrent when it likes, or the moment after who asked for it has gone."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._adding: asyncio.Task[Any] | None = None
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def add(self, *args: Any, **named: Any) -> Any:
        self.asked.set()
        adding = self._adding = asyncio.create_task(self._add(*args, **named))
        try:
            return await asyncio.shield(adding)
        except asyncio.CancelledError:
            self.gate.set()
            raise

    async def _add(self, *args: Any, **named: Any) -> Any:
        await self.gate.wait()
        return await self._session.add(*args, **named)

    async def remove(self, digest: Digest) -> None:
        if self._adding is not None:
            await asyncio.wait([self._adding])
        await self._session.remove(digest)


async def test_a_stream_that_is_over_while_the_swarm_is_joined_leaves_a_seed_and_no_half_a_transfer(
    world: World,
) -> None:
    world.site.leechers = 2
    session = await world.session()
    slow: Any = Slow(session)
    site: Any = world.site
    blobs = NodeBlobs(world.directory / "node", None, site, slow, (), PATIENCE, pace=PACE)
    await blobs.start()
    opened = await blobs.open(TARGET, world.blob.digest)
    await slow.asked.wait()
    world.site.gate.set()
    assert await read_all(opened) == world.blob.content
    await opened.close()
    await until(lambda: (found := session.get(world.blob.digest)) is not None and found.status().is_complete)
    await blobs.close()
