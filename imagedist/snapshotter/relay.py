"""Accepts connections on a listening socket that we may have inherited, and passes their bytes on to the gRPC server.

grpcio for Python can only make sockets of its own. systemd holds ours (socket activation), so that a call made while
the snapshotter restarts waits in the kernel's queue; hence these two threads for each connection. containerd has one.

containerd's client gives a new connection one second until the server's first frame (grpc-go's first back-off), and all
its calls fail when that is over. Python on a busy machine may not have imported gRPC by then. So the relay, which needs
the standard library only, sends an empty SETTINGS frame itself, and keeps the client's acknowledgement from the server,
which has not sent that frame (RFC 9113, 3.4 and 6.5). Calls then wait for as long as it takes.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

_LOG = logging.getLogger(__name__)

_CONNECTIONS = 64
_CHUNK_BYTES = 1 << 16
_PAUSE_SECONDS = 0.1

# HTTP/2, RFC 9113: a frame is its length (3 bytes), type, flags, stream (4 bytes) and payload.
_PREFACE_BYTES = 24
_FRAME_HEADER = struct.Struct(">BHBBI")
_SETTINGS, _ACK = 4, 1
_EMPTY_SETTINGS = _FRAME_HEADER.pack(0, 0, _SETTINGS, 0, 0)


class Relay:
    """Between a listening socket and the path of another.

    Args:
        listener: stays open when the relay is closed; it may be systemd's.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self._server: Path | None = None
        self._is_decided = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_closed = False
        self._wakes, self._waking = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> Self:
        """Connections are accepted and greeted from now on; what they ask waits for ``serve``."""
        self._thread.start()
        return self

    def serve(self, server: Path) -> None:
        """The gRPC server listens there now."""
        self._server = server
        self._is_decided.set()

    def stop_accepting(self) -> None:
        """New connections wait in the kernel from now on, for the next process."""
        self._is_closed = True
        self._waking.close()
        self._thread.join()
        self._wakes.close()

    def close(self) -> None:
        """Ends all connections."""
        self._is_decided.set()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self._wakes, select.POLLIN | select.POLLHUP)
        self.listener.setblocking(False)
        while not self._is_closed:
            poll.poll()
            if self._is_closed:
                return
            try:
                client, _ = self.listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:  # out of descriptors, or the client is gone already
                _LOG.warning("cannot accept a connection: %s", error.strerror)
                select.select([self._wakes], [], [], _PAUSE_SECONDS)
                continue
            client.setblocking(True)
            self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with self._lock:
            is_full = len(self._open) >= 2 * _CONNECTIONS
            if not is_full:
                self._open |= {client, server}
        try:
            if is_full:
                raise ConnectionRefusedError(0, f"there are {_CONNECTIONS} connections already")
            client.sendall(_EMPTY_SETTINGS)
        except OSError as error:
            _LOG.warning("refused a connection: %s", error.strerror)
            self._forget(client, server)
            return
        threading.Thread(target=self._join, args=(client, server), name="relay", daemon=True).start()

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        self._is_decided.wait()
        try:
            if self._server is None:
                raise ConnectionRefusedError(0, "the snapshotter ends")
            server.connect(str(self._server))
        except OSError as error:
            _LOG.warning("refused a connection: %s", error.strerror)
            self._forget(client, server)
            return
        running = [2]
        threading.Thread(target=self._copy, args=(server, client, running), name="relay", daemon=True).start()
        self._copy(client, server, running, _pass_greeting)

    def _copy(
        self,
        source: socket.socket,
        target: socket.socket,
        running: list[int],
        begin: Callable[[socket.socket, socket.socket], None] = lambda source, target: None,
    ) -> None:
        buffer = bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        with contextlib.suppress(OSError):
            begin(source, target)
            while length := source.recv_into(buffer):
                target.sendall(view[:length])
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        with self._lock:
            running[0] -= 1
            is_last = running[0] == 0
        if is_last:
            self._forget(source, target)

    def _forget(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(ends)
            for end in ends:
                end.close()


def _pass_greeting(client: socket.socket, server: socket.socket) -> None:
    """What a client sends first, but for its acknowledgement of the settings that are not the server's.

    Raises:
        OSError: one of them has gone.
    """
    server.sendall(_received(client, _PREFACE_BYTES))
    while True:
        header = _received(client, _FRAME_HEADER.size)
        high, low, kind, flags, _ = _FRAME_HEADER.unpack(header)
        if kind == _SETTINGS and flags & _ACK:
            return
        server.sendall(header)
        left = high << 16 | low
        while left:
            chunk = _received(client, min(left, _CHUNK_BYTES))
            server.sendall(chunk)
            left -= len(chunk)


def _received(source: socket.socket, size_bytes: int) -> bytes:
    """Raises OSError: it ends before."""
    received = source.recv(size_bytes, socket.MSG_WAITALL)
    if len(received) < size_bytes:
        raise ConnectionAbortedError(0, "it ended in the middle of a frame")
    return received
