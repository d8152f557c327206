"""A file to a socket: a slow client, one that goes away, one that stands still, a file that ends too soon."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from io import FileIO
from pathlib import Path

import pytest

from imagedist.distribution.sendfile import sendfile

CONTENT = os.urandom(8 << 20)


class Served(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileIO]:
    (tmp_path / "file").write_bytes(CONTENT)
    with FileIO(tmp_path / "file") as file:
        yield file


@pytest.fixture
async def ends() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """The server's transport and the client's socket of one connection."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Served, ours)
    yield transport, theirs
    transport.abort()
    theirs.close()
    await asyncio.sleep(0)


async def received(client: socket.socket, count: int) -> bytes:
    loop, parts = asyncio.get_running_loop(), bytearray()
    while len(parts) < count and (part := await loop.sock_recv(client, 1 << 16)):
        parts += part
    return bytes(parts)


async def test_part_of_a_file_arrives_behind_what_was_written_before(
    ends: tuple[asyncio.Transport, socket.socket], file: FileIO
) -> None:
    transport, client = ends
    head = b"head" * (1 << 20)  # more than the socket takes at once: the transport holds the rest
    transport.write(head)
    sending = asyncio.create_task(sendfile(transport, file, 5, len(CONTENT) - 7, stall_seconds=60))
    assert await received(client, len(head) + len(CONTENT) - 7) == head + CONTENT[5:-2]
    assert await sending == len(CONTENT) - 7


async def test_file_that_ends_too_soon_is_told(ends: tuple[asyncio.Transport, socket.socket], file: FileIO) -> None:
    transport, client = ends
    sending = asyncio.create_task(sendfile(transport, file, len(CONTENT) - 3, 10, stall_seconds=60))
    assert await received(client, 3) == CONTENT[-3:]
    assert await sending == 3


async def test_transport_goes_on_afterwards(ends: tuple[asyncio.Transport, socket.socket], file: FileIO) -> None:
    transport, client = ends
    assert await sendfile(transport, file, 0, 4, stall_seconds=60) == 4
    transport.write(b"next")
    assert await received(client, 8) == CONTENT[:4] + b"next"


@pytest.mark.parametrize(
    "end",
    [
        lambda transport, client: client.close(),
        lambda transport, client: transport.abort(),
    ],
)
async def test_connection_that_ends_ends_it(
    ends: tuple[asyncio.Transport, socket.socket],
    file: FileIO,
    end: Callable[[asyncio.Transport, socket.socket], None],
) -> None:
    transport, client = ends
    sending = asyncio.create_task(sendfile(transport, file, 0, len(CONTENT), stall_seconds=60))
    await received(client, 1 << 16)
    end(transport, client)
    if transport.is_closing():
        await received(client, len(CONTENT))  # makes room, so that the writer looks again
    with pytest.raises(ConnectionError):
        await sending


async def test_client_that_stands_still_is_given_up(
    ends: tuple[asyncio.Transport, socket.socket], file: FileIO
) -> None:
    transport, _ = ends
    with pytest.raises(TimeoutError):
        await sendfile(transport, file, 0, len(CONTENT), stall_seconds=0.01)


async def test_cancelled_sending_leaves_the_loop_clean(
    ends: tuple[asyncio.Transport, socket.socket], file: FileIO
) -> None:
    transport, client = ends
    open_files = set(os.listdir("/proc/self/fd"))
    sending = asyncio.create_task(sendfile(transport, file, 0, len(CONTENT), stall_seconds=60))
    await received(client, 1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert set(os.listdir("/proc/self/fd")) == open_files


async def test_tcp_sends_full_segments_meanwhile_and_at_once_afterwards(file: FileIO) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as client:
            client.setblocking(False)
            served, _ = listening.accept()
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Served, served)
            options = [(socket.IPPROTO_TCP, one) for one in (socket.TCP_CORK, socket.TCP_NODELAY)]
            sending = asyncio.create_task(sendfile(transport, file, 0, len(CONTENT), stall_seconds=60))
            await received(client, 1)
            assert [bool(served.getsockopt(*one)) for one in options] == [True, False]
            await received(client, len(CONTENT) - (1 << 16))
            assert await sending == len(CONTENT)
            assert [bool(served.getsockopt(*one)) for one in options] == [False, True]
            transport.abort()
            await asyncio.sleep(0)
