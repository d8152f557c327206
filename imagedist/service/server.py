"""An application on its sockets: listening, the bounds on clients, and a stop that lets running requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from aiohttp import web

from imagedist.beat import next_beat
from imagedist.config import Address
from imagedist.metrics import CONNECTIONS
from imagedist.service.client_certificates import require_certificate
from imagedist.service.connection import Connection, Connections
from imagedist.service.health import STOPPING
from imagedist.service.limits import LIMITS, MAX_FIELD_BYTES, MAX_FIELDS, MAX_LINE_BYTES, Limits
from imagedist.service.listener import ACCEPTED_AT_ONCE, Listener, bind, bound_address
from imagedist.service.recording import Recorder
from imagedist.service.tls import ServerTls

_LOG = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_FRESH_SECONDS = 1.0
_KEPT_SECONDS = 0.1
_UNWIND_SECONDS = 0.1
"""For requests that are cut to end, before what they use is closed."""


@contextlib.asynccontextmanager
async def serving(
    app: web.Application,
    at: Address | Sequence[socket.socket],
    *,
    limits: Limits = Limits(),
    tls: ServerTls | None = None,
    recorder: Recorder | None = None,
    drain_seconds: float = DRAIN_SECONDS,
    cut: asyncio.Event | None = None,
    accept_at_once: int = ACCEPTED_AT_ONCE,
    each_sweep: Callable[[], None] = lambda: None,
) -> AsyncIterator[Address]:
    """Serves the app while the context is open; yields the address in use (port 0 becomes real).

    Left, it accepts no more, says so at ``/readyz``, and ends each connection with the answer under way; connections
    that are idle stay usable until the last answer is out.

    Args:
        at: an address, or sockets that listen already; they are closed when the context is left: whoever connects
            then is refused, and goes elsewhere, or waits for our successor if another process holds the socket.
        recorder: of what is answered; metrics alone if not given.
        drain_seconds: how long running requests may finish. cut: ends that sooner.
        accept_at_once: connections, in one go.
        each_sweep: called once a second.

    Raises:
        InputError: the address cannot be listened on; names it and the remedy. Whatever the app's start-up raises.
    """
    loop = asyncio.get_running_loop()
    stopping = app[STOPPING] = asyncio.Event()
    app[LIMITS] = limits

    async def say_last(request: web.BaseRequest, response: web.StreamResponse) -> None:
        if stopping.is_set():
            response.force_close()
            response.headers["Connection"] = "close"  # too late for force_close to set it

    app.on_response_prepare.append(say_last)
    if tls is not None and tls.wants_certificates:
        app.middlewares.insert(0, require_certificate)
    connections = Connections(limits, loop.time)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_UNWIND_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        sockets = bind(at) if isinstance(at, Address) else list(at)
        for listening in sockets:
            stack.callback(listening.close)
        stack.callback(connections.cut_all)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        assert runner.server is not None
        recorded = recorder or Recorder()
        make = partial(
            Connection,
            connections,
            runner.server,
            access_log=_LOG,
            access_log_class=lambda logger, form: recorded,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=limits.linger_seconds,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS,
        )
        listener = Listener(sockets, connections, make, limits, tls=tls, batch=accept_at_once)
        sweeping = asyncio.create_task(_sweep(connections, listener, limits, tls, each_sweep))
        listener.resume()
        try:
            yield bound_address(sockets)
        finally:
            stopping.set()
            listener.close()
            await _drain(connections, listener, drain_seconds, cut or asyncio.Event())
            listener.cut()
            sweeping.cancel()
            await asyncio.wait([sweeping])


async def _sweep(
    connections: Connections,
    listener: Listener,
    limits: Limits,
    tls: ServerTls | None,
    each_sweep: Callable[[], None],
) -> None:
    while True:
        await next_beat(limits.sweep_seconds)
        try:
            connections.sweep()
            CONNECTIONS.set(len(connections))
            if tls is not None:
                tls.reload()
            listener.resume()
            each_sweep()
        except Exception:
            _LOG.exception("looking after the connections failed")


async def _drain(connections: Connections, listener: Listener, seconds: float, cut: asyncio.Event) -> None:
    """Returns when no request is being answered, or there is no time left.

    A request on its way when its connection is closed fails: so new connections have a moment to send their first,
    and those that are kept a shorter one for their next, which is answered with ``Connection: close``.
    """
    clock = asyncio.get_running_loop().time
    began = clock()

    def is_anything_due() -> bool:
        passed_seconds = clock() - began
        return (
            connections.busy > 0
            or (passed_seconds < _FRESH_SECONDS and connections.fresh + listener.connecting > 0)
            or (passed_seconds < _KEPT_SECONDS and len(connections) > 0)
        )

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while is_anything_due() and not cut.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(cut.wait(), _LOOK_SECONDS)
    if connections.busy:
        _LOG.warning("cutting %d requests off", connections.busy)
