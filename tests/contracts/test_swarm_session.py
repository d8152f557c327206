"""What every swarm session promises; run on libtorrent and on its twin in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import InputError, IntegrityError, SourceError, StorageError
from imagedist.service import serving
from imagedist.swarm import bencode, torrent
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.memory_session import MemorySession, MemorySwarm
from imagedist.swarm.settings import Role
from tests.swarm.blobs import Blob, make_blob, make_directory

SIZE_BYTES = (1 << 20) + 12345


class World(Protocol):
    """One implementation with its network."""

    async def open(self, host: str, role: Role = "node", port: int = 0) -> MemorySession | LibtorrentSession: ...

    async def web_seed(self, content: bytes) -> str:
        """The URL of a web server that has the content, with a query that must arrive as it is."""


class MemoryWorld:
    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._swarm = MemorySwarm()

    async def open(self, host: str, role: Role = "node", port: int = 0) -> MemorySession:
        session = await self._swarm.open(Address(host, port), role=role)
        self._stack.push_async_callback(session.close)
        return session

    async def web_seed(self, content: bytes) -> str:
        self._swarm.web["http://web/blob?signature=abc"] = content
        return "http://web/blob?signature=abc"


class LibtorrentWorld:
    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def open(self, host: str, role: Role = "node", port: int = 0) -> LibtorrentSession:
        session = await LibtorrentSession.open(Address(host, port), role=role)
        self._stack.push_async_callback(session.close)
        return session

    async def web_seed(self, content: bytes) -> str:
        async def blob(request: web.Request) -> web.Response:
            if request.query.get("signature") != "abc":
                raise web.HTTPForbidden
            piece = content[request.http_range]
            start = request.http_range.start
            content_range = f"bytes {start}-{start + len(piece) - 1}/{len(content)}"
            return web.Response(status=206, body=piece, headers={"Content-Range": content_range})

        app = web.Application()
        app.router.add_get("/blob", blob)
        address = await self._stack.enter_async_context(serving(app, Address("127.0.0.1", 0)))
        return f"http://{address}/blob?signature=abc"


@pytest.fixture(params=[MemoryWorld, LibtorrentWorld], ids=["memory", "libtorrent"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield request.param(stack)


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    return make_blob(tmp_path / "seed", SIZE_BYTES)


async def test_a_seed_is_complete_at_once(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1", "seeder")
    transfer = await session.add(blob.torrent, tmp_path / "seed", seeding=True)
    await transfer.wait_complete()
    status = transfer.status()
    assert status.is_complete
    assert status.present_bytes == status.size_bytes == SIZE_BYTES
    assert sum(status.received_bytes.values()) == 0


async def test_a_node_gets_the_blob_and_its_file_may_be_trusted_when_complete(
    world: World, blob: Blob, tmp_path: Path
) -> None:
    seed, node = await world.open("127.0.0.1", "seeder"), await world.open("127.0.0.2")
    await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
    transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"), peers=[seed.address])
    await transfer.wait_complete()
    assert (tmp_path / "node" / blob.digest.hex).read_bytes() == blob.content
    assert transfer.status().is_complete


async def test_bytes_by_source_add_up_to_the_size(world: World, blob: Blob, tmp_path: Path) -> None:
    seed = await world.open("127.0.0.1", "seeder")
    await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
    nodes = [await world.open("127.0.0.2"), await world.open("127.0.0.3")]
    transfers = [
        await node.add(
            blob.torrent, make_directory(tmp_path / node.address.host), peers=[seed.address, nodes[0].address]
        )
        for node in nodes
    ]
    await asyncio.gather(*(transfer.wait_complete() for transfer in transfers))
    for transfer in transfers:
        received = transfer.status().received_bytes
        assert sum(received.values()) == SIZE_BYTES
        assert received["webseed"] == 0
    assert sum(transfer.status().received_bytes["seeder"] for transfer in transfers) >= SIZE_BYTES


async def test_bytes_of_a_node_are_not_the_seeders(world: World, blob: Blob, tmp_path: Path) -> None:
    first, second = await world.open("127.0.0.1", "node"), await world.open("127.0.0.2")
    await first.add(blob.torrent, tmp_path / "seed", seeding=True)
    transfer = await second.add(blob.torrent, make_directory(tmp_path / "node"), peers=[first.address])
    await transfer.wait_complete()
    assert transfer.status().received_bytes == {"peer": SIZE_BYTES, "seeder": 0, "webseed": 0}


async def test_a_piece_is_given_as_soon_as_it_is_verified_and_not_before(
    world: World, blob: Blob, tmp_path: Path
) -> None:
    seed, node = await world.open("127.0.0.1", "seeder"), await world.open("127.0.0.2")
    transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"))
    last = SIZE_BYTES // transfer.piece_length
    waiting = [asyncio.create_task(transfer.piece(index)) for index in (0, 3, 3, last)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    await seed.add(blob.torrent, tmp_path / "seed", seeding=True, peers=[node.address])
    pieces = await asyncio.gather(*waiting)
    assert pieces == [blob.content[at * transfer.piece_length :][: transfer.piece_length] for at in (0, 3, 3, last)]


async def test_a_cancelled_reader_disturbs_no_other(world: World, blob: Blob, tmp_path: Path) -> None:
    seed, node = await world.open("127.0.0.1", "seeder"), await world.open("127.0.0.2")
    transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"))
    leaving, staying = asyncio.create_task(transfer.piece(0)), asyncio.create_task(transfer.piece(0))
    await asyncio.sleep(0)
    leaving.cancel()
    await seed.add(blob.torrent, tmp_path / "seed", seeding=True, peers=[node.address])
    assert await staying == blob.content[: transfer.piece_length]
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_piece_the_blob_does_not_have_is_refused(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, tmp_path / "seed", seeding=True)
    for index in (-1, SIZE_BYTES // transfer.piece_length + 1):
        with pytest.raises(InputError, match="no piece"):
            await transfer.piece(index)


async def test_adding_a_blob_again_returns_its_transfer(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    first, second = await asyncio.gather(
        session.add(blob.torrent, tmp_path / "seed", seeding=True),
        session.add(blob.torrent, tmp_path / "seed", seeding=True),
    )
    assert first is second is session.get(blob.digest)
    assert list(session.transfers()) == [first]


async def test_removing_ends_every_wait_and_keeps_the_file(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, make_directory(tmp_path / "node"))
    waiting = [asyncio.create_task(wait) for wait in (transfer.wait_complete(), transfer.piece(0))]
    await asyncio.sleep(0)
    await session.remove(blob.digest)
    for task in waiting:
        with pytest.raises(SourceError, match="removed"):
            await task
    assert session.get(blob.digest) is None
    assert list(session.transfers()) == []
    await session.remove(blob.digest)
    assert (tmp_path / "seed" / blob.digest.hex).exists()


async def test_a_removed_blob_can_be_added_anew(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    for _ in range(5):
        transfer = await session.add(blob.torrent, tmp_path / "seed")
        await transfer.wait_complete()
        await session.remove(blob.digest)


async def test_a_file_that_is_already_whole_needs_no_peer(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, tmp_path / "seed")
    await transfer.wait_complete()
    assert transfer.status().present_bytes == SIZE_BYTES
    assert transfer.status().received_bytes == {"peer": 0, "seeder": 0, "webseed": 0, "disk": SIZE_BYTES}
    assert await transfer.piece(0) == blob.content[: transfer.piece_length]


async def test_what_is_right_in_a_file_is_kept_and_the_rest_comes_from_peers(
    world: World, blob: Blob, tmp_path: Path
) -> None:
    seed, node = await world.open("127.0.0.1", "seeder"), await world.open("127.0.0.2")
    await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
    path = make_directory(tmp_path / "node") / blob.digest.hex
    length = torrent.piece_length(SIZE_BYTES)
    path.write_bytes(blob.content[:length] + b"\0" * length + blob.content[2 * length : 3 * length + 100])
    transfer = await node.add(blob.torrent, tmp_path / "node", peers=[seed.address])
    await transfer.wait_complete()
    assert path.read_bytes() == blob.content
    assert transfer.status().received_bytes == {
        "peer": 0,
        "seeder": SIZE_BYTES - 2 * length,
        "webseed": 0,
        "disk": 2 * length,
    }


async def test_what_was_given_to_a_transfer_is_not_asked_for_and_goes_to_others(
    world: World, blob: Blob, tmp_path: Path
) -> None:
    giving, taking = await world.open("127.0.0.1"), await world.open("127.0.0.2")
    given = await giving.add(blob.torrent, make_directory(tmp_path / "giving"))
    length = given.piece_length
    assert await given.give(2, blob.content[2 * length : 3 * length])
    assert await given.give(2, blob.content[2 * length : 3 * length])
    transfer = await taking.add(blob.torrent, make_directory(tmp_path / "taking"), peers=[giving.address])
    assert await transfer.piece(2) == await given.piece(2) == blob.content[2 * length : 3 * length]
    assert given.status().present_bytes == length
    assert sum(given.status().received_bytes.values()) == 0
    assert transfer.status().received_bytes["peer"] == length
    seed = await world.open("127.0.0.3", "seeder")
    await seed.add(blob.torrent, tmp_path / "seed", seeding=True, peers=[giving.address])
    await given.wait_complete()
    assert (tmp_path / "giving" / blob.digest.hex).read_bytes() == blob.content
    assert given.status().received_bytes["seeder"] + given.status().received_bytes["peer"] == SIZE_BYTES - length


async def test_a_given_piece_that_is_wrong_is_not_kept(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, make_directory(tmp_path / "node"))
    length = transfer.piece_length
    assert not await transfer.give(1, b"\1" * length)
    assert transfer.status().present_bytes == 0
    assert await transfer.give(1, blob.content[length : 2 * length])
    assert await transfer.piece(1) == blob.content[length : 2 * length]


async def test_a_transfer_to_which_every_piece_was_given_is_complete(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, make_directory(tmp_path / "node"))
    length = transfer.piece_length
    starts = range(0, SIZE_BYTES, length)
    given = await asyncio.gather(*(transfer.give(at // length, blob.content[at : at + length]) for at in starts))
    assert all(given)
    await transfer.wait_complete()
    assert (tmp_path / "node" / blob.digest.hex).read_bytes() == blob.content


async def test_giving_to_a_removed_transfer_is_an_error(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, make_directory(tmp_path / "node"))
    await session.remove(blob.digest)
    with pytest.raises(SourceError, match="removed"):
        await transfer.give(0, blob.content[: transfer.piece_length])


async def test_a_web_seed_alone_is_enough_and_gets_its_url_untouched(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, make_directory(tmp_path / "node"))
    transfer.set_web_seed(await world.web_seed(blob.content))
    await transfer.wait_complete()
    transfer.set_web_seed(None)
    assert transfer.status().received_bytes == {"peer": 0, "seeder": 0, "webseed": SIZE_BYTES}
    assert (tmp_path / "node" / blob.digest.hex).read_bytes() == blob.content


async def test_a_torrent_that_is_not_ours_is_refused(world: World, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    foreign = bencode.encode({b"info": {b"name": b"../../etc/passwd", b"piece length": 16384}, b"piece layers": {}})
    with pytest.raises(IntegrityError, match="not a torrent of ours"):
        await session.add(foreign, tmp_path)
    assert list(session.transfers()) == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")], ids=["missing", "short"])
async def test_seeding_a_file_that_is_not_the_blob_is_refused(world: World, tmp_path: Path, damage: object) -> None:
    blob = make_blob(tmp_path / "seed", SIZE_BYTES)
    assert callable(damage)
    damage(tmp_path / "seed" / blob.digest.hex)
    session = await world.open("127.0.0.1")
    with pytest.raises(StorageError):
        await session.add(blob.torrent, tmp_path / "seed", seeding=True)
    assert session.get(blob.digest) is None


async def test_a_missing_directory_is_refused(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    with pytest.raises(StorageError):
        await session.add(blob.torrent, tmp_path / "nowhere")


async def test_a_port_in_use_is_named(world: World) -> None:
    session = await world.open("127.0.0.1")
    with pytest.raises(InputError, match=rf"{session.address}.*port is in use"):
        await world.open("127.0.0.1", port=session.address.port)


async def test_closing_ends_every_wait_and_refuses_new_torrents(world: World, blob: Blob, tmp_path: Path) -> None:
    session = await world.open("127.0.0.1")
    transfer = await session.add(blob.torrent, make_directory(tmp_path / "node"))
    waiting = asyncio.create_task(transfer.wait_complete())
    await asyncio.sleep(0)
    await session.close()
    with pytest.raises(SourceError):
        await waiting
    with pytest.raises(SourceError, match="closed"):
        await session.add(blob.torrent, tmp_path / "node")
    await session.close()
