"""What only libtorrent can get wrong: limits on private networks, closed doors, threads left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from imagedist.config import Address
from imagedist.errors import InputError, StorageError
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.settings import PEER_ID_PREFIXES, session_settings
from tests.support.waiting import until
from tests.swarm.blobs import any_piece, make_blob, make_directory


async def test_limits_hold_on_loopback(tmp_path: Path) -> None:
    """By order, not by the clock: 16 MiB at 1 MiB/s are still arriving when an uncapped 4 MiB are there."""
    capped, free = make_blob(tmp_path / "seed", 16 << 20, 1), make_blob(tmp_path / "seed", 4 << 20, 2)
    async with AsyncExitStack() as stack:
        sessions = []
        for host, upload in (("127.0.0.1", 1 << 20), ("127.0.0.2", None), ("127.0.0.3", None)):
            session = await LibtorrentSession.open(Address(host, 0), upload=upload)
            stack.push_async_callback(session.close)
            sessions.append(session)
        slow, fast, node = sessions
        await slow.add(capped.torrent, tmp_path / "seed", seeding=True)
        await fast.add(free.torrent, tmp_path / "seed", seeding=True)
        arriving = await node.add(capped.torrent, make_directory(tmp_path / "node"), peers=[slow.address])
        await any_piece(arriving)
        there = await node.add(free.torrent, tmp_path / "node", peers=[fast.address])
        await there.wait_complete()
        assert not arriving.status().is_complete
        slow.set_limits(None, None)
        await arriving.wait_complete()


async def test_who_reads_behind_gets_each_piece_right_and_nothing_is_kept_at_the_end(tmp_path: Path) -> None:
    """Pieces are read ahead of a reader; two of them at different places do not disturb each other."""
    blob = make_blob(tmp_path / "seed", 6 << 20)
    content = (tmp_path / "seed" / blob.digest.hex).read_bytes()
    async with AsyncExitStack() as stack:
        seed = await LibtorrentSession.open(Address("127.0.0.1", 0), upload=4 << 20)
        node = await LibtorrentSession.open(Address("127.0.0.2", 0))
        for session in (seed, node):
            stack.push_async_callback(session.close)
        await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
        transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"), peers=[seed.address])
        length, count = transfer.piece_length, transfer.facts.piece_count

        async def read(pieces: Sequence[int]) -> None:
            for piece in pieces:
                assert await transfer.piece(piece) == content[piece * length : (piece + 1) * length]

        await transfer.arrival.wait_piece(count // 2)
        await asyncio.gather(read(range(count)), read([*range(count // 2, count), *range(count // 2)]))
        await transfer.wait_complete()
        assert not transfer._ahead


async def test_fewer_connections_are_heeded_by_those_that_are_open(tmp_path: Path) -> None:
    """Three capped leechers, then two may stay: the third is not served until there is room again."""
    blob = make_blob(tmp_path / "seed", 8 << 20)
    async with AsyncExitStack() as stack:
        sessions = []
        for number in range(1, 5):
            session = await LibtorrentSession.open(Address(f"127.0.0.{number}", 0), upload=1 << 20)
            stack.push_async_callback(session.close)
            sessions.append(session)
        seed, *nodes = sessions
        seeding = await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
        leeching = []
        for number, node in enumerate(nodes):
            directory = make_directory(tmp_path / str(number))
            leeching.append(await node.add(blob.torrent, directory, peers=[seed.address]))
        await until(lambda: seeding.status().peers == len(nodes))
        seed.set_limits(1 << 20, None, connections=2)
        await until(lambda: seeding.status().peers <= 2)
        seed.set_limits(None, None, connections=100)
        for transfer in leeching:
            await transfer.wait_complete()


async def test_what_a_node_gives_is_bulk_whoever_dialled(tmp_path: Path) -> None:
    """By SO_PRIORITY the kernel's queues sort: TC_PRIO_BULK is 2. The seeder's connections are as any others."""
    blob = make_blob(tmp_path / "seed", 8 << 20)
    async with AsyncExitStack() as stack:
        seed = await LibtorrentSession.open(Address("127.0.0.1", 0), upload=1 << 20)
        node = await LibtorrentSession.open(Address("127.0.0.2", 0))
        seeder = await LibtorrentSession.open(Address("127.0.0.3", 0), role="seeder")
        for session in (seed, node, seeder):
            stack.push_async_callback(session.close)
        await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
        transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"), peers=[seed.address])
        third = await seeder.add(blob.torrent, make_directory(tmp_path / "seeder"), peers=[node.address])
        await any_piece(transfer)
        await until(lambda: third.status().peers > 0)
        found = connections({seed.address.port, node.address.port})
    assert found["127.0.0.1"] == found["127.0.0.2"] == {2}
    assert found["127.0.0.3"] == {0}


def connections(ports: set[int]) -> dict[str, set[int]]:
    """Priorities of this process's connections at one of the ports, by their own address."""
    found: dict[str, set[int]] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family == socket.AF_INET and {one.getsockname()[1], one.getpeername()[1]} & ports:
                    priority = one.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
                    found.setdefault(one.getsockname()[0], set()).add(priority)
    return found


async def test_a_transfer_goes_on_after_its_seed_came_back(tmp_path: Path) -> None:
    blob = make_blob(tmp_path / "seed", 4 << 20)
    seed = await LibtorrentSession.open(Address("127.0.0.1", 0), upload=256 << 10)
    node = await LibtorrentSession.open(Address("127.0.0.2", 0))
    try:
        await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
        transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"), peers=[seed.address])
        await any_piece(transfer)
        await seed.close()
        assert not transfer.status().is_complete
        seed = await LibtorrentSession.open(seed.address, role="seeder")
        await seed.add(blob.torrent, tmp_path / "seed", seeding=True, peers=[node.address])
        await transfer.wait_complete()
        received = transfer.status().received_bytes
        assert received["peer"] > 0
        assert received["seeder"] > 0
        assert sum(received.values()) == len(blob.content)
    finally:
        await seed.close()
        await node.close()


async def test_a_tracker_that_is_down_is_one_line_however_many_torrents_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = await LibtorrentSession.open(Address("127.0.0.1", 0))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(session.close)
        for seed in range(3):
            blob = make_blob(tmp_path / "seed", 100_000, seed)
            await session.add(blob.torrent, tmp_path / "seed", seeding=True, trackers=["http://127.0.0.1:1/announce"])
        await until(lambda: all(transfer.status().is_introduced for transfer in session.transfers()))
    assert len([record for record in caplog.records if "announce to" in record.getMessage()]) == 1


async def test_an_alert_that_cannot_be_handled_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blob = make_blob(tmp_path / "seed", 1 << 20)
    async with AsyncExitStack() as stack:
        sessions = [await LibtorrentSession.open(Address(host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
        for session in sessions:
            stack.push_async_callback(session.close)
        seed, node = sessions
        await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
        transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"), peers=[seed.address])
        transfer.arrival.add_block = None  # type: ignore[assignment, method-assign]  # every block's alert fails
        await transfer.wait_complete()
    assert "cannot handle the alert" in caplog.text


async def test_a_disk_that_fails_ends_the_transfer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blob = make_blob(tmp_path / "seed", 4 << 20)
    seed = await LibtorrentSession.open(Address("127.0.0.1", 0))
    node = await LibtorrentSession.open(Address("127.0.0.2", 0))
    try:
        await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
        make_directory(tmp_path / "node" / blob.digest.hex)  # where the file should be: every write fails
        transfer = await node.add(blob.torrent, tmp_path / "node", peers=[seed.address])
        with pytest.raises(StorageError, match=f"cannot keep the pieces of {blob.digest}"):
            await transfer.wait_complete()
        assert not transfer.status().is_complete
        assert len(caplog.records) == 1
    finally:
        await seed.close()
        await node.close()


async def test_closing_leaves_no_thread_and_no_file_descriptor(tmp_path: Path) -> None:
    blob = make_blob(tmp_path, 100_000)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
    all_are_there = threading.Barrier(4)
    await asyncio.gather(*(asyncio.to_thread(all_are_there.wait) for _ in range(4)))  # asyncio's own threads
    threads, files = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        session = await LibtorrentSession.open(Address("127.0.0.1", 0))
        await session.add(blob.torrent, tmp_path, seeding=True, trackers=["http://127.0.0.1:9/announce"])
        await session.close()
    assert len(os.listdir("/proc/self/task")) <= threads
    assert len(os.listdir("/proc/self/fd")) == files


async def test_names_are_refused_where_addresses_are_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an IP address"):
        await LibtorrentSession.open(Address("localhost", 0))
    session = await LibtorrentSession.open(Address("127.0.0.1", 0))
    blob = make_blob(tmp_path, 1000)
    with pytest.raises(InputError, match="expected an IP address"):
        await session.add(blob.torrent, tmp_path, peers=[("seeder.example", 6881)])
    await session.close()


def test_every_door_to_strangers_is_closed() -> None:
    settings = session_settings(Address("10.0.0.1", 6881), "node", None, 1000)
    for door in ("dht", "lsd", "upnp", "natpmp", "outgoing_utp", "incoming_utp"):
        assert settings[f"enable_{door}"] is False
    assert settings["outgoing_interfaces"] == "10.0.0.1"
    assert settings["upload_rate_limit"] == 0
    assert settings["download_rate_limit"] == 1000


def test_an_unspecified_address_lets_the_kernel_choose_the_way_out() -> None:
    assert session_settings(Address("0.0.0.0", 6881), "node", None, None)["outgoing_interfaces"] == ""
    assert session_settings(Address("::", 6881), "node", None, None)["listen_interfaces"] == "[::]:6881"


def test_peer_id_prefixes_have_the_length_of_the_convention() -> None:
    assert {len(prefix) for prefix in PEER_ID_PREFIXES.values()} == {8}
