"""Accepts connections: as many as may be open, of several sockets, in plain or by TLS.

Ours, as asyncio's own server takes whatever comes: 1024 connections in one go, which starves the other workers on the
socket, and any number of them in all.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

from imagedist.config import Address
from imagedist.errors import listen_error
from imagedist.metrics import CONNECTIONS_REFUSED
from imagedist.service.connection import Connection, Connections
from imagedist.service.limits import Limits
from imagedist.service.tls import ServerTls

_LOG = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections the kernel queues: a whole site may turn up in the same second (default 128)."""
ACCEPTED_AT_ONCE = 64
"""Accepted in one go, before those that are there get their turn."""
_IDLE_ENOUGH_SECONDS = 1.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def bind(address: Address, *, is_shared: bool = False) -> list[socket.socket]:
    """Sockets at all addresses of the host name, one port, that do not listen yet.

    Args:
        is_shared: with other workers, each of which binds its own (``SO_REUSEPORT``): the kernel spreads connections
            evenly over them (4 workers, 64 connections: 11 to 21 each; one socket for all: 1 to 33).

    Raises:
        InputError: it cannot be listened on; names the address and the remedy.
    """
    bound: list[socket.socket] = []
    port = address.port
    try:
        found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            bound.append(listener := socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((where[0], port, *where[2:]))
            port = listener.getsockname()[1]
    except OSError as error:
        for listener in bound:
            listener.close()
        raise listen_error(address, error) from error
    return bound


def reserve(address: Address) -> list[socket.socket]:
    """For a parent of workers: ``bind`` shared, but only if nobody, not even another parent, is there already."""
    for probe in bind(address):
        probe.close()
    return bind(address, is_shared=True)


def listen(sockets: Sequence[socket.socket]) -> None:
    """Has those listen that do not yet.

    Raises:
        InputError: another process was faster.
    """
    for listener in sockets:
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            try:
                listener.listen(BACKLOG)
            except OSError as error:
                raise listen_error(bound_address([listener]), error) from error


def bound_address(sockets: Sequence[socket.socket]) -> Address:
    """Where the first socket listens; a path for a Unix socket."""
    name = sockets[0].getsockname()
    return Address(name, 0) if isinstance(name, str) else Address(*name[:2])


class Listener:
    """Accepts as long as there is room; then the rest waits in the kernel's queue.

    Args:
        make: makes a connection's protocol.
        batch: how many are accepted in one go; one, when other processes accept from the same sockets.

    Raises:
        InputError: another process has begun to listen at an address.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connections: Connections,
        make: Callable[[], Connection],
        limits: Limits,
        *,
        tls: ServerTls | None = None,
        batch: int = ACCEPTED_AT_ONCE,
    ) -> None:
        self._sockets = tuple(sockets)
        self._connections = connections
        self._make = make
        self._limits = limits
        self._tls = tls
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._is_accepting = False
        self._is_closed = False
        connections.made_room = self.resume
        listen(self._sockets)

    def resume(self) -> None:
        """Accepts again, if it had stopped for want of room."""
        if self._is_accepting or self._is_closed:
            return
        for listener in self._sockets:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)
        self._is_accepting = True

    def pause(self) -> None:
        if self._is_accepting:
            for listener in self._sockets:
                self._loop.remove_reader(listener)
        self._is_accepting = False

    def close(self) -> None:
        """Accepts no more, for good, after those who wait already: they would be reset."""
        if self._is_accepting:
            for listener in self._sockets:
                self._accept(listener)
        self.pause()
        self._is_closed = True
        for listener in self._sockets:
            listener.close()

    @property
    def connecting(self) -> int:
        """How many are on their way to being a connection."""
        return len(self._connecting)

    def cut(self) -> None:
        """Ends those."""
        for task in self._connecting:
            task.cancel()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(self._batch):
            if len(self._connections) + len(self._connecting) >= self._limits.connections:
                CONNECTIONS_REFUSED.labels(cause="full").inc()
                self.pause()  # before room is made, which may resume
                self._connections.close_longest_idle(_IDLE_ENOUGH_SECONDS)
                return
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                _LOG.error("cannot accept connections: %s; raise LimitNOFILE or lower max_connections", error.strerror)
                CONNECTIONS_REFUSED.labels(cause="exhausted").inc()
                self.pause()
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._connect(accepted, address))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket, address: object) -> None:
        tls, seconds = self._tls, self._limits.handshake_seconds
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                accepted,
                ssl=tls.context if tls else None,
                ssl_handshake_timeout=seconds if tls else None,
                ssl_shutdown_timeout=seconds if tls else None,
            )
        except OSError as error:  # ssl.SSLError is one
            CONNECTIONS_REFUSED.labels(cause="handshake").inc()
            if isinstance(error, ssl.SSLCertVerificationError):  # which the client may not be told (TLS 1.3)
                _LOG.info("refused the client certificate of %s: %s", address, error.verify_message)
            _LOG.debug("a connection failed at its start: %s", error)
