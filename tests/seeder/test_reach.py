"""The site tries the port of who asks, and no other's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.nodes import Heartbeat
from imagedist.service import render_site_errors, serving
from seeder import reach
from seeder.nodes import Nodes
from seeder.reach import add_reach_routes


@asynccontextmanager
async def site() -> AsyncIterator[str]:
    app = web.Application(middlewares=[render_site_errors])
    nodes = Nodes()
    nodes.beat("n2", Heartbeat(peer_port=6882), "10.0.0.2")
    add_reach_routes(app, nodes, lambda: 6881)
    async with serving(app, Address("127.0.0.1", 0)) as address:
        yield f"http://{address}/site/v1/reach"


async def ask(url: str) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, json.loads(await answer.read())


async def test_an_open_port_is_reached_and_a_closed_one_is_refused() -> None:
    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with site() as url:
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            status, told = await ask(f"{url}?port={port}")
            assert (status, told) == (
                200,
                {
                    "format": 1,
                    "address": "127.0.0.1",
                    "obstacle": None,
                    "peer_port": 6881,
                    "is_known": False,
                    "neighbours": [["10.0.0.2", 6882]],
                },
            )
        _, told = await ask(f"{url}?port={port}")
    assert told["obstacle"] == "refused"


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "x", "6882/../1"])
async def test_what_is_no_port_is_refused(port: str) -> None:
    async with site() as url:
        status, _ = await ask(f"{url}?port={port}")
    assert status == 400


async def test_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_MAX_ATTEMPTS", 0)
    async with site() as url:
        status, told = await ask(f"{url}?port=1")
    assert status == 503
