"""The seeder's session as real nodes and hostile peers meet it."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import prometheus_client
import pytest

from imagedist.config import Address
from imagedist.errors import InputError, StorageError
from imagedist.swarm import torrent
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.session import Transfer
from seeder.uploads import UploadSession, wire
from seeder.uploads.peer import Peer
from seeder.uploads.wire import Block, Kind, WireError
from tests.support.waiting import until
from tests.swarm.blobs import Blob, make_blob, make_directory

LOOPBACK = "127.0.0.1"


@pytest.fixture
async def session() -> AsyncIterator[UploadSession]:
    session = await UploadSession.open(Address(LOOPBACK, 0))
    yield session
    await session.close()


def seed(session: UploadSession, site: Path, size_bytes: int = 300_000) -> Blob:
    blob = make_blob(site, size_bytes)
    session.add(torrent.parse(blob.torrent), site)
    return blob


@asynccontextmanager
async def nodes(seeder: UploadSession, blob: Blob, directory: Path, count: int) -> AsyncIterator[list[Transfer]]:
    """So many real sessions that know the seeder and each other, and download."""
    sessions = [await LibtorrentSession.open(Address(f"127.0.0.{number + 2}", 0)) for number in range(count)]
    try:
        transfers: list[Transfer] = []
        for each in sessions:
            peers = [(LOOPBACK, seeder.address.port)]
            peers += [(other.address.host, other.address.port) for other in sessions if other is not each]
            folder = make_directory(directory / each.address.host)
            transfers.append(await each.add(blob.torrent, folder, peers=peers))
        yield transfers
    finally:
        await asyncio.gather(*(each.close() for each in sessions))


async def test_a_lone_node_gets_everything_from_the_seeder(session: UploadSession, tmp_path: Path) -> None:
    blob = seed(session, tmp_path / "site", 5_000_000)
    async with nodes(session, blob, tmp_path, 1) as (transfer,):
        await transfer.wait_complete()
        assert transfer.status().received_bytes["seeder"] == len(blob.content)
    upload = session.get(blob.digest)
    assert upload
    assert upload.status().uploaded_bytes == len(blob.content)


async def test_nodes_give_each_other_what_the_seeder_gave_one_of_them(session: UploadSession, tmp_path: Path) -> None:
    blob = seed(session, tmp_path / "site", 20_000_000)
    async with nodes(session, blob, tmp_path, 6) as transfers:
        await asyncio.gather(*(transfer.wait_complete() for transfer in transfers))
        for transfer in transfers:
            await transfer.wait_complete()
    for number in range(6):
        assert (tmp_path / f"127.0.0.{number + 2}" / blob.digest.hex).read_bytes() == blob.content
    upload = session.get(blob.digest)
    assert upload
    assert upload.status().uploaded_bytes < 6 * len(blob.content)


async def test_a_blob_that_was_removed_reaches_nobody(session: UploadSession, tmp_path: Path) -> None:
    blob = seed(session, tmp_path)
    session.remove(blob.digest)
    peer = await RawPeer.connect(session)
    peer.greet(blob)
    assert await peer.hears_the_end()


async def test_a_file_that_fails_ends_its_peers_and_nothing_else(session: UploadSession, tmp_path: Path) -> None:
    blob, other = seed(session, tmp_path), seed(session, tmp_path, 200_000)
    peer, neighbour = await RawPeer.connect(session), await RawPeer.connect(session)
    (tmp_path / blob.digest.hex).write_bytes(b"short")
    for each, its in ((peer, blob), (neighbour, other)):
        each.greet(its)
        each.send(wire.HAVE_NONE)
    for each in (peer, neighbour):
        each.ask(Block(await each.offered(), 0, 100))
    assert await peer.hears_the_end()
    assert await neighbour.block() == other.content[:100]
    upload = session.get(blob.digest)
    assert upload
    assert isinstance(upload.failure, StorageError)
    await neighbour.close()


async def test_a_file_of_another_size_is_not_seeded(session: UploadSession, tmp_path: Path) -> None:
    blob = make_blob(tmp_path, 300_000)
    (tmp_path / blob.digest.hex).write_bytes(b"short")
    with pytest.raises(StorageError, match="5 bytes, its torrent 300000"):
        session.add(torrent.parse(blob.torrent), tmp_path)


async def test_a_port_in_use_is_said(session: UploadSession) -> None:
    with pytest.raises(InputError, match="in use"):
        await UploadSession.open(session.address)


class RawPeer:
    """A peer that says what the test wants it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._is_greeted = False

    @classmethod
    async def connect(cls, session: UploadSession) -> RawPeer:
        return cls(*await asyncio.open_connection(LOOPBACK, session.address.port))

    def send(self, message: bytes) -> None:
        self._writer.write(message)

    async def drain(self) -> None:
        await self._writer.drain()

    def greet(self, blob: Blob) -> None:
        self.send(wire.handshake(torrent.parse(blob.torrent).short_infohash, b"-IDn001-............"))

    def ask(self, block: Block) -> None:
        self.send(bytes((0, 0, 0, 13, Kind.REQUEST)) + wire.reject(block)[5:])

    async def message(self) -> tuple[int, bytes]:
        if not self._is_greeted:
            self._is_greeted = True
            assert wire.is_handshake(await self._reader.readexactly(wire.HANDSHAKE_BYTES))
        length = int.from_bytes(await self._reader.readexactly(4), "big")
        body = await self._reader.readexactly(length)
        return (body[0], body[1:]) if body else await self.message()

    async def of(self, kind: Kind) -> bytes:
        """The next message of a kind; others are passed over."""
        while True:
            got, body = await self.message()
            if got == kind:
                return body

    async def offered(self) -> int:
        return int.from_bytes(await self.of(Kind.HAVE), "big")

    async def block(self) -> bytes:
        return (await self.of(Kind.PIECE))[8:]

    async def hears_the_end(self) -> bool:
        try:
            while await self._reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        await self.close()
        return True

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass


async def test_only_what_was_offered_is_given(session: UploadSession, tmp_path: Path) -> None:
    blob = seed(session, tmp_path)
    peer = await RawPeer.connect(session)
    peer.greet(blob)
    peer.send(wire.HAVE_NONE)
    first, second = await peer.offered(), await peer.offered()
    assert (first, second) == (0, 1)
    length = torrent.piece_length(len(blob.content))
    peer.ask(Block(2, 0, 16384))
    assert await peer.of(Kind.REJECT) == wire.reject(Block(2, 0, 16384))[5:]
    peer.ask(Block(1, 16384, 100))
    assert await peer.block() == blob.content[length + 16384 :][:100]
    await peer.close()


async def test_a_seed_hears_that_we_have_everything_as_well_and_is_let_go(
    session: UploadSession, tmp_path: Path
) -> None:
    blob = seed(session, tmp_path)
    peer = await RawPeer.connect(session)
    peer.greet(blob)
    peer.send(wire.HAVE_ALL)
    await peer.of(Kind.HAVE_ALL)
    assert await peer.hears_the_end()


async def test_hashes_are_refused_since_the_torrent_has_them(session: UploadSession, tmp_path: Path) -> None:
    blob = seed(session, tmp_path)
    peer = await RawPeer.connect(session)
    peer.greet(blob)
    peer.send(wire.HAVE_NONE)
    asked = bytes(48)
    peer.send((49).to_bytes(4, "big") + bytes((Kind.HASH_REQUEST,)) + asked)
    assert await peer.of(Kind.HASH_REJECT) == asked
    await peer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        wire.handshake(bytes(20), bytes(20)),
        (1 << 30).to_bytes(4, "big"),
        bytes((0, 0, 0, 3, Kind.BITFIELD, 0, 0)),
        wire.HAVE_NONE + wire.have(1000),
        wire.HAVE_NONE + bytes((0, 0, 0, 13, Kind.REQUEST)) + wire.reject(Block(0, 0, 1 << 20))[5:],
        wire.HAVE_NONE + bytes((0, 0, 0, 13, Kind.REQUEST)) + wire.reject(Block(0, 65536, 16384))[5:],
        wire.HAVE_NONE + bytes((0, 0, 0, 2, Kind.REQUEST, 0)),
    ],
    ids=["http", "unknown", "oversized", "bitfield", "have", "long", "outside", "short"],
)
async def test_a_peer_that_breaks_the_protocol_is_hung_up_on_and_others_are_served(
    session: UploadSession, tmp_path: Path, said: bytes
) -> None:
    blob = seed(session, tmp_path)
    peer = await RawPeer.connect(session)
    if not said.startswith((b"GET", b"\x13")):
        peer.greet(blob)
    peer.send(said)
    assert await peer.hears_the_end()
    other = await RawPeer.connect(session)
    other.greet(blob)
    other.send(wire.HAVE_NONE)
    assert await other.offered() == 0
    await other.close()


async def test_a_peer_from_elsewhere_is_hung_up_on_and_counted(tmp_path: Path) -> None:
    session = await UploadSession.open(Address(LOOPBACK, 0), networks=[ipaddress.ip_network("10.0.0.0/8")])
    before = refused("foreign")
    peer = await RawPeer.connect(session)
    peer.greet(seed(session, tmp_path))
    assert await peer.hears_the_end()
    assert refused("foreign") == before + 1
    await session.close()


async def test_a_tracker_that_hangs_does_not_keep_silent_peers_on_the_line(tmp_path: Path) -> None:
    now = 100.0
    asked = asyncio.Event()

    async def never(_: bytes) -> int:
        asked.set()
        await asyncio.Event().wait()
        return 0

    session = await UploadSession.open(Address(LOOPBACK, 0), count_seeds=never, clock=lambda: now)
    peer = await RawPeer.connect(session)
    peer.greet(seed(session, tmp_path))
    await asyncio.wait_for(asked.wait(), 60)
    now += 3600
    assert await asyncio.wait_for(peer.hears_the_end(), 60)
    await session.close()


async def test_a_session_that_closes_admits_nobody_who_comes_at_this_moment(tmp_path: Path) -> None:
    session = await UploadSession.open(Address(LOOPBACK, 0))
    first = await RawPeer.connect(session)
    first.greet(seed(session, tmp_path))
    first.send(wire.HAVE_NONE)
    await first.offered()
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0)
    late = Peer(session, time.monotonic)  # its connection was accepted before the port was closed
    with pytest.raises(WireError, match="stops"):
        session.came(late)
    session.gone(late)
    await asyncio.wait_for(closing, 60)
    await first.close()


def refused(reason: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("imagedist_peers_refused_total", {"reason": reason}) or 0.0


def whole(kind: Kind, body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes((kind,)) + body


async def test_a_peer_that_reads_nothing_of_its_answers_is_hung_up_on(session: UploadSession, tmp_path: Path) -> None:
    blob = seed(session, tmp_path)
    before = refused("unread")
    peer = await RawPeer.connect(session)
    peer.greet(blob)
    peer.send(wire.HAVE_NONE)
    try:
        for _ in range(64):  # kernels hold some MB of a connection; this is 256
            peer.send(whole(Kind.HASH_REQUEST, bytes(4000)) * 1000)
            await peer.drain()
    except ConnectionError:
        pass
    assert await peer.hears_the_end()
    assert refused("unread") == before + 1


async def test_one_address_has_so_many_connections_and_fewer_for_one_torrent(tmp_path: Path) -> None:
    session = await UploadSession.open(Address(LOOPBACK, 0), connections_per_host=10)
    blob = seed(session, tmp_path)
    before = refused("full")
    peers = [await RawPeer.connect(session) for _ in range(8)]
    for peer in peers:
        peer.greet(blob)
        peer.send(wire.HAVE_NONE)
        assert await peer.of(Kind.HAVE_NONE) == b""
    ninth = await RawPeer.connect(session)
    ninth.greet(blob)
    assert await ninth.hears_the_end()
    others = [await RawPeer.connect(session) for _ in range(2)]
    one_too_many = await RawPeer.connect(session)
    assert await one_too_many.hears_the_end()
    assert refused("full") == before + 2
    await peers.pop().close()
    await others.pop().close()
    await until(lambda: session.connections == 8)
    again = await RawPeer.connect(session)
    again.greet(blob)
    again.send(wire.HAVE_NONE)
    assert await again.of(Kind.HAVE_NONE) == b""
    for peer in (*peers, *others, again):
        await peer.close()
    await session.close()


async def test_cancels_of_what_was_never_asked_cost_next_to_nothing(session: UploadSession, tmp_path: Path) -> None:
    """Counted in comparisons: thousands of cancels fit into one packet, and thousands of requests may wait."""
    blob = seed(session, tmp_path)
    peer = await RawPeer.connect(session)
    peer.greet(blob)
    peer.send(wire.HAVE_NONE)
    piece = await peer.offered()
    await peer.offered()
    compared = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal compared
        compared += event == "call" and frame.f_code is Block.__eq__.__code__

    unasked = wire.reject(Block(piece, 5000, 1))[5:]
    sys.setprofile(count)
    try:
        asked = b"".join(whole(Kind.REQUEST, wire.reject(Block(piece, begin, 1))[5:]) for begin in range(4000))
        peer.send(asked + whole(Kind.CANCEL, unasked) * 100 + whole(Kind.HASH_REQUEST, bytes(48)))
        await peer.of(Kind.HASH_REJECT)
    finally:
        sys.setprofile(None)
    assert compared < 1000
    await peer.close()


async def test_a_cancelled_request_is_rejected_and_the_others_are_answered_once(
    session: UploadSession, tmp_path: Path
) -> None:
    blob = seed(session, tmp_path)
    peer = await RawPeer.connect(session)
    peer.greet(blob)
    peer.send(wire.HAVE_NONE)
    piece = await peer.offered()
    first, second, last = Block(piece, 0, 100), Block(piece, 100, 100), Block(piece, 200, 100)
    for block in (first, second, second, last):
        peer.ask(block)
    peer.send(whole(Kind.CANCEL, wire.reject(second)[5:]))
    assert await peer.of(Kind.REJECT) == wire.reject(second)[5:]
    assert [await peer.block(), await peer.block()] == [blob.content[:100], blob.content[200:300]]
    await peer.close()
