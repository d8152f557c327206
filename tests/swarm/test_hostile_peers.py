"""Peers that break every rule against a real session: it hangs up, counts why, stays small and serves the others."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import prometheus_client
import pytest

from imagedist.config import Address
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.torrent import TorrentFacts, parse
from tests.support import wire
from tests.support.bad_peer import BadPeer, Manner
from tests.support.counts import count
from tests.support.waiting import until
from tests.support.wire import Wire, message
from tests.swarm.blobs import Blob, make_blob, make_directory

SIZE_BYTES = 3 << 20
_WAIT_SECONDS = 60.0
_GROWTH_BYTES = 24 << 20
_STRANGERS = 300


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    return make_blob(tmp_path / "seed", SIZE_BYTES)


@pytest.fixture
async def seed(blob: Blob, tmp_path: Path) -> AsyncIterator[LibtorrentSession]:
    session = await LibtorrentSession.open(Address("127.0.0.1", 0), role="seeder")
    await session.add(blob.torrent, tmp_path / "seed", seeding=True)
    await until(lambda: answers(session.address, parse(blob.torrent)))
    yield session
    await session.close()


def answers(address: Address, facts: TorrentFacts, own_host: str | None = None) -> bool:
    """A torrent that was just added takes no peers for a moment, and hangs up on them without a reason."""
    with Wire.to(address, own_host) as line, contextlib.suppress(OSError):
        line.say(wire.handshake(facts.short_infohash))
        return line.hear(len(wire.PROTOCOL)) == wire.PROTOCOL
    return False


def greeted(facts: TorrentFacts, *after: bytes) -> bytes:
    return wire.handshake(facts.short_infohash) + b"".join(after)


ATTACKS = {
    "no greeting": ("malformed", lambda facts: b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n" + bytes(68)),
    "an unknown infohash": ("unknown", lambda facts: wire.handshake(b"z" * 20)),
    "a message of 4 GB": ("malformed", lambda facts: greeted(facts, struct.pack(">IB", 0xFFFFFFF0, wire.PIECE))),
    "a bitfield too long": ("malformed", lambda facts: greeted(facts, message(wire.BITFIELD, b"\xff" * 1000))),
    "a bitfield of 900 kB": ("malformed", lambda facts: greeted(facts, message(wire.BITFIELD, b"\xff" * 900_000))),
    "an empty bitfield": ("malformed", lambda facts: greeted(facts, message(wire.BITFIELD))),
    "a piece that does not exist": ("malformed", lambda facts: greeted(facts, message(wire.HAVE, b"\x7f" * 4))),
    "a have of one byte": ("malformed", lambda facts: greeted(facts, message(wire.HAVE, b"\x01"))),
    "a request of one byte": ("malformed", lambda facts: greeted(facts, message(wire.REQUEST, b"\x01"))),
    "hashes nobody asked for": (
        "malformed",
        lambda facts: greeted(facts, message(wire.HASHES, bytes(32) + struct.pack(">IIII", 0, 0, 512, 0) + bytes(32))),
    ),
    "a message of no kind": ("malformed", lambda facts: greeted(facts, message(99, bytes(32)))),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_who_breaks_the_protocol_is_hung_up_on_and_counted(
    seed: LibtorrentSession, blob: Blob, attack: str
) -> None:
    reason, said = ATTACKS[attack]
    before = refused(reason)
    with Wire.to(seed.address, timeout_seconds=_WAIT_SECONDS) as line:
        assert await asyncio.to_thread(is_hung_up_on, line, said(parse(blob.torrent)))
    await until(lambda: refused(reason) == before + 1)


async def test_a_request_for_what_does_not_exist_gets_nothing_and_is_counted(
    seed: LibtorrentSession, blob: Blob
) -> None:
    before = refused("malformed")
    facts = parse(blob.torrent)
    wrong = [(999, 0, 1 << 14), (0, 0, 1 << 24), (0, 0xFFFFFF00, 1 << 14), (facts.piece_count - 1, 1 << 20, 1)]
    with Wire.to(seed.address) as line:
        line.say(greeted(facts, message(wire.INTERESTED)))
        line.say(*(message(wire.REQUEST, struct.pack(">III", *each)) for each in wrong))
        await until(lambda: refused("malformed") == before + len(wrong))
        line.say(message(wire.REQUEST, struct.pack(">III", 1, 0, 1 << 14)))
        received = await asyncio.to_thread(next_piece, line)
    assert received == struct.pack(">II", 1, 0) + blob.content[facts.piece_length :][: 1 << 14]


def next_piece(line: Wire) -> bytes:
    line.hear(wire.HANDSHAKE_BYTES)
    while (heard := line.hear_message())[0] != wire.PIECE:
        pass
    return heard[1]


async def test_hundreds_that_connect_and_say_nothing_keep_nobody_out_and_are_hung_up_on(
    seed: LibtorrentSession, blob: Blob, tmp_path: Path
) -> None:
    before = refused("silent")
    with ExitStack() as stack:
        greeting = wire.handshake(parse(blob.torrent).short_infohash)
        for number in range(_STRANGERS):
            line = stack.enter_context(Wire.to(seed.address, f"127.0.1.{number % 250 + 1}"))
            line.say(greeting[: number % wire.HANDSHAKE_BYTES])
        await fetch(seed, blob, tmp_path / "node")
        await until(lambda: refused("silent") >= before + _STRANGERS)


@pytest.mark.prove
async def test_a_thousand_attacks_leave_a_session_as_small_as_it_was(
    seed: LibtorrentSession, blob: Blob, tmp_path: Path
) -> None:
    facts = parse(blob.torrent)

    def attack() -> None:
        for _, said in ATTACKS.values():
            with Wire.to(seed.address, timeout_seconds=_WAIT_SECONDS) as line:
                assert is_hung_up_on(line, said(facts))

    for _ in range(10):
        await asyncio.to_thread(attack)
    before = anonymous_bytes()
    for _ in range(count(20, 1000)):
        await asyncio.to_thread(attack)
    assert anonymous_bytes() - before < _GROWTH_BYTES
    await fetch(seed, blob, tmp_path / "node")


@pytest.mark.parametrize("manner", ["corrupt", "silent", "stalling"])
async def test_a_bad_peer_beside_a_good_one_costs_no_piece_and_is_left(
    seed: LibtorrentSession, blob: Blob, tmp_path: Path, manner: Manner
) -> None:
    before = refused("corrupt")
    node = await LibtorrentSession.open(Address("127.0.0.2", 0))
    try:
        with BadPeer(socket.create_server(("127.0.0.3", 0)), parse(blob.torrent), manner) as bad:
            transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"), peers=[bad.address])
            await until(lambda: bad.met > 0 and bad.asked >= (manner != "silent"))
            await until(lambda: manner != "corrupt" or refused("corrupt") > before)
            await seed.remove(blob.digest)  # again, so that it dials the node
            await seed.add(blob.torrent, tmp_path / "seed", seeding=True, peers=[node.address])
            async with asyncio.timeout(_WAIT_SECONDS):
                await transfer.wait_complete()
            assert (tmp_path / "node" / blob.digest.hex).read_bytes() == blob.content
            await until(lambda: bad.is_alone)
    finally:
        await node.close()


async def test_strangers_from_outside_the_sites_networks_are_neither_let_in_nor_dialled(
    blob: Blob, tmp_path: Path
) -> None:
    networks = [ipaddress.ip_network("127.0.0.0/29"), ipaddress.ip_network("fd00::/8")]
    greeting = wire.handshake(parse(blob.torrent).short_infohash)
    site = await LibtorrentSession.open(Address("127.0.0.1", 0), networks=networks)
    try:
        await site.add(blob.torrent, tmp_path / "seed", seeding=True)
        await until(lambda: answers(site.address, parse(blob.torrent), "127.0.0.7"))
        before = refused("foreign")
        with Wire.to(site.address, "127.0.0.8", _WAIT_SECONDS) as stranger:
            assert await asyncio.to_thread(is_hung_up_on, stranger, greeting)
        await until(lambda: refused("foreign") == before + 1)
        await site.remove(blob.digest)
        with BadPeer(socket.create_server(("127.0.0.9", 0)), parse(blob.torrent), "silent") as stranger_too:
            before = refused("foreign")
            transfer = await site.add(blob.torrent, make_directory(tmp_path / "node"), peers=[stranger_too.address])
            await until(lambda: refused("foreign") > before)
            assert (stranger_too.met, transfer.status().peers) == (0, 0)
    finally:
        await site.close()


def is_hung_up_on(line: Wire, said: bytes) -> bool:
    with contextlib.suppress(OSError):  # before it has heard all of it
        line.say(said)
    return line.hears_the_end()


async def fetch(seed: LibtorrentSession, blob: Blob, directory: Path) -> None:
    """An honest node gets the whole blob."""
    node = await LibtorrentSession.open(Address("127.0.0.2", 0))
    try:
        transfer = await node.add(blob.torrent, make_directory(directory), peers=[seed.address])
        async with asyncio.timeout(_WAIT_SECONDS):
            await transfer.wait_complete()
        assert (directory / blob.digest.hex).read_bytes() == blob.content
    finally:
        await node.close()


def refused(reason: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("imagedist_peers_refused_total", {"reason": reason}) or 0.0


def anonymous_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10
