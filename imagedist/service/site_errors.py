"""What every HTTP service of ours shares: health and metrics routes, site errors as JSON, listening, a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import prometheus_client
from aiohttp import web
from aiohttp.typedefs import Handler

from imagedist.config import Address
from imagedist.errors import (
    ImagedistError,
    InputError,
    IntegrityError,
    NotFoundError,
    OverloadedError,
    SourceError,
    StorageError,
    UnacceptableError,
    UnauthorizedError,
    listen_error,
)

_LOG = logging.getLogger(__name__)

_BACKLOG = 1024
"""Connections the kernel queues: a whole site may turn up in the same second (default 128)."""

_SHUTDOWN_TIMEOUT_SECONDS = 5.0
"""How long running requests may finish after SIGTERM; systemd's own patience is 90 s."""

_STATUSES: tuple[tuple[type[ImagedistError], int, str], ...] = (
    (NotFoundError, 404, "NOT_FOUND"),
    (UnauthorizedError, 401, "UNAUTHORIZED"),
    (OverloadedError, 503, "OVERLOADED"),
    (SourceError, 502, "SOURCE_FAILED"),
    (InputError, 400, "BAD_REQUEST"),
    (IntegrityError, 422, "INTEGRITY"),
    (UnacceptableError, 422, "UNACCEPTABLE"),
    (StorageError, 507, "STORAGE_FAILED"),
)

Ready = Callable[[], Awaitable[str | None]]


def add_health_routes(app: web.Application, ready: Ready) -> None:
    """Adds ``/livez``, ``/readyz`` and ``/metrics``.

    Args:
        ready: None when the process can do its job, else the reason it cannot, which ``/readyz`` answers with 503.
    """

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        reason = await ready()
        return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def metrics(request: web.Request) -> web.Response:
        body = prometheus_client.generate_latest()
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])


def site_error(status: int, code: str, message: str) -> web.Response:
    """``{"error": {"code": …, "message": …}}``, the body of every failed site request."""
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


@web.middleware
async def render_site_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers the errors of ``/site`` routes as JSON. Comes first in an app's middlewares, before the guard."""
    if not request.path.startswith("/site/"):
        return await handler(request)
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = site_error(error.status, error.reason.upper().replace(" ", "_"), error.text or error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ImagedistError as error:
        status, code = next(
            ((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)), (500, "FAILED")
        )
        if status >= 500:
            _LOG.warning("%s %s: %s", request.method, request.path, error)
        response = site_error(status, code, str(error))
        if status == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="imagedist site"'
        return response


@contextlib.asynccontextmanager
async def serving(app: web.Application, address: Address) -> AsyncIterator[Address]:
    """Serves the app at the address while the context is open; yields the address in use (port 0 becomes real).

    Raises:
        InputError: the address cannot be listened on; names it and the remedy.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_SECONDS)
    try:
        await runner.setup()
        site = web.TCPSite(runner, address.host, address.port, backlog=_BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise listen_error(address, error) from error
        host, port = runner.addresses[0][:2]
        yield Address(host, port)
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """While open, SIGTERM and SIGINT set the event instead of ending the process. Opened before anything is started:
    a signal during start-up then stops what was started, too."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def until_signalled() -> None:
    """Returns at the first SIGTERM or SIGINT from now on."""
    with stop_signals() as stop:
        await stop.wait()


def raise_open_files_limit() -> None:
    """Every node, client and open blob takes a file descriptor; the usual soft limit of 1024 is for select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_service(create: Callable[[], web.Application], address: Address) -> None:
    """Runs one service until SIGTERM or SIGINT; running requests get a few seconds to finish.

    Args:
        create: makes the app; called inside the running event loop.

    Raises:
        InputError: the address is in use. Whatever the app's start-up raises.
    """
    raise_open_files_limit()

    async def run() -> None:
        with stop_signals() as stop:
            async with serving(create(), address) as bound:
                _LOG.info("listening on %s", bound)
                await stop.wait()

    asyncio.run(run())
