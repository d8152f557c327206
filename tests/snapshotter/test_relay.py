"""Between containerd and the gRPC server: a greeting before there is a server, and no answer to it afterwards."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.snapshotter.relay import Relay

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACK, WINDOW_UPDATE = 4, 1, 8


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, 0) + payload


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        started = Relay(listener).start()
        yield started
        started.stop_accepting()
        started.close()


@pytest.fixture
def client(relay: Relay, tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(30)
        connected.connect(str(tmp_path / "s"))
        yield connected


def served(relay: Relay, path: Path) -> socket.socket:
    """What the gRPC server has of the one client."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(30)
        listener.bind(str(path))
        listener.listen()
        relay.serve(path)
        accepted, _ = listener.accept()
        accepted.settimeout(30)
        return accepted


def test_a_client_is_greeted_before_there_is_a_server(client: socket.socket) -> None:
    assert client.recv(100) == frame(SETTINGS)


def test_the_server_gets_all_that_the_client_sends_but_the_answer_to_the_greeting(
    relay: Relay, client: socket.socket, tmp_path: Path
) -> None:
    first, more = (
        frame(SETTINGS, payload=b"\x00\x02\x00\x00\x00\x00"),
        frame(WINDOW_UPDATE, payload=b"\x00\x00\xff\xff"),
    )
    client.sendall(PREFACE + first + more + frame(SETTINGS, ACK) + b"anything")
    client.sendall(frame(SETTINGS, ACK))

    with served(relay, tmp_path / "server") as server:
        client.shutdown(socket.SHUT_WR)
        with server.makefile("rb") as stream:
            assert stream.read() == PREFACE + first + more + b"anything" + frame(SETTINGS, ACK)
        server.sendall(frame(SETTINGS))
    with client.makefile("rb") as stream:
        assert stream.read() == frame(SETTINGS) * 2


def test_a_client_that_goes_in_the_middle_of_its_greeting_leaves_nothing(
    relay: Relay, client: socket.socket, tmp_path: Path
) -> None:
    assert client.recv(100) == frame(SETTINGS)
    client.sendall(PREFACE[:10])
    client.close()
    with served(relay, tmp_path / "server") as server:
        assert server.recv(1) == b""


def test_a_client_that_waits_when_the_snapshotter_ends_is_let_go(relay: Relay, client: socket.socket) -> None:
    assert client.recv(100) == frame(SETTINGS)
    relay.stop_accepting()
    relay.close()
    assert client.recv(1) == b""
