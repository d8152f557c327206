"""Little real servers that answer as a broken or a sound site would."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from imagedist.config import Address
from imagedist.distribution.tracing import trace_hops
from imagedist.service import add_health_routes, serving

HERE = Address("127.0.0.1", 0)


@asynccontextmanager
async def answering(
    body: str = "ok\n", *, status: int = 200, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Address]:
    """Says the same to everything."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serving(app, HERE) as address:
        yield address


@asynccontextmanager
async def service(kind: str, unready: str | None = None) -> AsyncIterator[Address]:
    """A service of ours with nothing but its health."""
    app = web.Application()

    async def ready() -> str | None:
        return unready

    trace_hops(app, kind)
    add_health_routes(app, ready)
    async with serving(app, HERE) as address:
        yield address


@asynccontextmanager
async def self_signed(directory: Path) -> AsyncIterator[tuple[Address, Path]]:
    """A ready proxy by HTTPS, and its certificate, for which nobody vouches but itself."""
    app = web.Application()

    async def ready() -> str | None:
        return None

    trace_hops(app, "proxy")
    add_health_routes(app, ready)
    context, certificate = _self_signed(directory)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, HERE.host, 0, ssl_context=context).start()
        yield Address(*runner.addresses[0][:2]), certificate
    finally:
        await runner.cleanup()


def _self_signed(directory: Path) -> tuple[ssl.SSLContext, Path]:
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    request += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
