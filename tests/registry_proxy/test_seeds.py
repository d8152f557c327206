"""What the proxy tells the seeders, and what it does when one is silent."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from imagedist.oci.digest import Digest
from registry_proxy.seeds import SILENT_SECONDS, Seeds


async def test_silent_seeder_is_not_asked_for_blob_after_blob(tmp_path: Path) -> None:
    asked: list[str] = []
    now = 1000.0

    async def break_off(request: web.Request) -> web.Response:
        asked.append(request.method)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_delete("/site/v1/seeds/{digest}", break_off)
    async with TestServer(app) as server:
        seeds = Seeds([str(server.make_url("")).rstrip("/")], None, tmp_path, clock=lambda: now)
        assert not any([await seeds.delete(Digest.of(bytes([number]))) for number in range(5)])
        at_first = len(asked)
        now += SILENT_SECONDS
        assert not await seeds.delete(Digest.of(b"later"))
        await seeds.close()
    assert at_first < 5  # aiohttp itself repeats a request once
    assert len(asked) == 2 * at_first


async def test_order_to_seed_is_not_repeated_after_the_order_to_let_go(tmp_path: Path) -> None:
    asked: list[str] = []
    refused = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        if request.method == "PUT":
            refused.set()
            return web.Response(status=503)
        return web.Response(status=204)

    app = web.Application()
    app.router.add_route("*", "/site/v1/seeds/{digest}", answer)
    async with TestServer(app) as server:
        seeds = Seeds([str(server.make_url("")).rstrip("/")], None, tmp_path)
        putting = asyncio.create_task(seeds.put(Digest.of(b"blob"), b"torrent"))
        await refused.wait()
        assert await seeds.delete(Digest.of(b"blob"))
        await putting  # nothing of it goes on in the background
        assert asked == ["PUT", "DELETE"]
        await seeds.close()


async def test_a_disk_that_fails_for_a_while_does_not_end_the_watch_over_seeders(tmp_path: Path) -> None:
    digest, torrents, told = Digest.of(b"blob"), tmp_path / "torrents", asyncio.Event()
    torrents.mkdir()
    (torrents / f"{digest.hex}.torrent").write_bytes(b"torrent")
    in_the_way = torrents / ".seeders"
    in_the_way.mkdir()
    looks = 0

    async def say(request: web.Request) -> web.Response:
        nonlocal looks
        looks += 1
        if looks == 6 and in_the_way.is_dir():
            in_the_way.rmdir()
        return web.json_response({"session": "first"})

    async def take(request: web.Request) -> web.Response:
        told.set()
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/site/v1/seeding", say)
    app.router.add_put("/site/v1/seeds/{digest}", take)
    async with TestServer(app) as first, TestServer(app) as second:
        urls = [str(server.make_url("")).rstrip("/") for server in (first, second)]
        seeds = Seeds(urls, None, torrents, look_seconds=0)
        seeds.start()
        await told.wait()
        await seeds.close()
