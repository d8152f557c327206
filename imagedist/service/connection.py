"""A client's connection, with the bounds that aiohttp leaves out: on a request's head, and on an answer nobody reads.

Nothing is timed per request: each connection remembers since when it owes us something, and ``Connections.sweep``
looks at all of them once a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from imagedist.metrics import CONNECTIONS_CUT
from imagedist.service.limits import TLS_UNSENT_BYTES, Limits

_LOG = logging.getLogger(__name__)

_NOTHING = float("inf")
_REASON_LENGTH = 200


class Connection(web.RequestHandler):
    """The protocol of one connection. ``_request_count`` and ``_waiter`` are aiohttp's own: raw sockets test them."""

    __slots__ = ("_all", "_head_since", "_heard_at", "_unsent_bytes", "_unsent_since", "_wire")

    def __init__(self, connections: Connections, server: web.Server, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **settings)
        self._all = connections
        self._wire: asyncio.Transport | None = None
        self._head_since = _NOTHING
        self._heard_at = loop.time()
        self._unsent_bytes = 0
        self._unsent_since = _NOTHING

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        if transport.get_extra_info("sslcontext") is not None:
            transport.set_write_buffer_limits(high=TLS_UNSENT_BYTES)
        self._head_since = self._heard_at = self._loop.time()
        self._all.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._wire = None
        self._all.discard(self)

    def data_received(self, data: bytes) -> None:
        seen = self._request_count
        super().data_received(data)
        self._heard_at = self._loop.time()
        if self._request_count != seen:
            self._head_since = _NOTHING
        elif self._head_since == _NOTHING and self.is_idle:
            self._head_since = self._heard_at

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that is no HTTP is one line of the log and a 400; whoever scans the network sends those all day."""
        if isinstance(exc, ConnectionError):  # the client went away while its request was read
            raise exc
        if isinstance(exc, UnicodeEncodeError) and _has_undecodable_headers(request):  # aiohttp repeats some in answers
            status, message = 400, "a header is not UTF-8"
        if isinstance(exc, web.RequestPayloadError):
            status, message = 400, "the body is not what its headers say"
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        reason = " ".join((message or str(exc)).split())[:_REASON_LENGTH]
        _LOG.info("refused a malformed request from %s: %r", request.remote, reason)
        errors = [{"code": "UNSUPPORTED", "message": f"malformed request: {reason}", "detail": None}]
        response = web.json_response({"errors": errors}, status=status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **settings: Any) -> None:
        """A body that nobody wanted may be anything: that it cannot be decoded is no exception of ours."""
        error = settings.get("exc_info")
        if isinstance(error, web.RequestPayloadError):
            _LOG.info("dropped a malformed body: %r", " ".join(str(error).split())[:_REASON_LENGTH])
            return
        super().log_exception(*args, **settings)

    @property
    def is_idle(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def is_fresh(self) -> bool:
        """Whether its first request has not come yet."""
        return self._request_count == 0

    @property
    def idle_since(self) -> float:
        """When its client was last heard; infinite: a request is being answered."""
        return self._heard_at if self.is_idle else _NOTHING

    def check(self, limits: Limits, now: float) -> None:
        """Ends the connection if its client has been owing something for too long."""
        if self._wire is None:
            return
        unsent_bytes = self._wire.get_write_buffer_size()
        if unsent_bytes == 0 or unsent_bytes != self._unsent_bytes:
            self._unsent_since = now if unsent_bytes else _NOTHING
        self._unsent_bytes = unsent_bytes
        if now - self._unsent_since >= limits.stall_seconds:
            CONNECTIONS_CUT.labels(cause="answer not read").inc()
            self.cut()
        elif now - self._head_since >= limits.head_seconds:
            CONNECTIONS_CUT.labels(cause="no request").inc()
            self.cut()

    def cut(self) -> None:
        """Ends it now; what has not been sent is dropped."""
        if self._wire is not None:
            self._wire.abort()


def _has_undecodable_headers(request: web.BaseRequest) -> bool:
    return any("\udc80" <= letter <= "\udcff" for value in request.headers.values() for letter in value)


class Connections:
    """All connections of one listening process.

    Attributes:
        made_room: called when a connection has ended.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._connections: set[Connection] = set()
        self.made_room: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._connections))

    def add(self, connection: Connection) -> None:
        self._connections.add(connection)

    def discard(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.made_room()

    def sweep(self) -> None:
        """Ends the connections whose clients take too long over something."""
        now = self._clock()
        for connection in self:
            connection.check(self._limits, now)

    def cut_all(self) -> None:
        for connection in self:
            connection.cut()

    def close_longest_idle(self, at_least_seconds: float) -> bool:
        """Makes room for somebody who asks at the cost of somebody who does not. False: nobody is idle for so long."""
        if not self._connections:
            return False
        longest = min(self._connections, key=lambda connection: connection.idle_since)
        if self._clock() - longest.idle_since < at_least_seconds:
            return False
        longest.cut()
        return True

    @property
    def fresh(self) -> int:
        """Of how many the first request is still on its way."""
        return sum(connection.is_fresh for connection in self._connections)

    @property
    def busy(self) -> int:
        """How many have a request being answered."""
        return sum(not connection.is_idle for connection in self._connections)
