"""Clients that behave badly, by raw sockets; and an application that tells what reached it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from imagedist.config import Address
from imagedist.service import add_health_routes, render_site_errors

REQUEST = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"


class Raw:
    """One connection; ``rest`` is what it is sent until its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def rest(self, seconds: float = 60.0) -> bytes:
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def answer(self, seconds: float = 60.0) -> bytes:
        """The head of the next answer and its body."""
        async with asyncio.timeout(seconds):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return head + await self.reader.readexactly(int(length.split(b":")[1]))


@asynccontextmanager
async def raw(address: Address) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


class Slow:
    """An application: ``/quick`` answers, ``/slow`` when it is released, ``/large`` sends 64 MiB, PUT a site body."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()
        self.ended: list[str] = []
        self.app = web.Application(middlewares=[render_site_errors])
        self.app.router.add_get("/quick", self._quick)
        self.app.router.add_get("/slow", self._slow)
        self.app.router.add_get("/large", self._large)
        self.app.router.add_put("/site/v1/thing", self._quick)
        add_health_routes(self.app, self._ready)

    async def _ready(self) -> None:
        return None

    async def _quick(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="quick")

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 4
        await response.prepare(request)
        await response.write(b"sl")
        self.entered.set()
        try:
            await self.released.wait()
            await response.write(b"ow")
        except asyncio.CancelledError:
            self.ended.append("cut")
            raise
        self.ended.append("whole")
        return response

    async def _large(self, request: web.Request) -> web.Response:
        return web.Response(body=bytes(64 << 20))
