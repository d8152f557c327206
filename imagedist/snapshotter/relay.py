"""Accepts connections on a listening socket that we may have inherited, and passes their bytes on to the gRPC server.

grpcio for Python can only make sockets of its own. systemd holds ours (socket activation), so that a call made while
the snapshotter restarts waits in the kernel's queue; hence these two threads for each connection. containerd has one.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from pathlib import Path

_LOG = logging.getLogger(__name__)

_CONNECTIONS = 64
_CHUNK_BYTES = 1 << 16
_PAUSE_SECONDS = 0.1


class Relay:
    """Between a listening socket and the path of another.

    Args:
        listener: stays open when the relay is closed; it may be systemd's. server: where the gRPC server listens.
    """

    def __init__(self, listener: socket.socket, server: Path) -> None:
        self._listener = listener
        self._server = server
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_closed = False
        self._wakes, self._waking = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop_accepting(self) -> None:
        """New connections wait in the kernel from now on, for the next process."""
        self._is_closed = True
        self._waking.close()
        self._thread.join()
        self._wakes.close()

    def close(self) -> None:
        """Ends all connections."""
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wakes, select.POLLIN | select.POLLHUP)
        self._listener.setblocking(False)
        while not self._is_closed:
            poll.poll()
            if self._is_closed:
                return
            try:
                client, _ = self._listener.accept()
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
            server.connect(str(self._server))
        except OSError as error:
            _LOG.warning("refused a connection: %s", error.strerror)
            self._forget(client, server)
            return
        ends = [(client, server), (server, client)]
        running = [len(ends)]
        for source, target in ends:
            threading.Thread(target=self._copy, args=(source, target, running), name="relay", daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, running: list[int]) -> None:
        buffer = bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        with contextlib.suppress(OSError):
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
