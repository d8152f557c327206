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


async def test_a_seeder_that_was_cut_off_is_told_what_it_has_missed_and_nothing_else(tmp_path: Path) -> None:
    known, missed = Digest.of(b"known"), Digest.of(b"missed")
    (tmp_path / f"{known.hex}.torrent").write_bytes(b"torrent")
    is_cut, told, looks = False, list[tuple[str, str, str]](), asyncio.Condition()
    seeded, count = {known}, 0

    async def say(request: web.Request) -> web.Response:
        nonlocal count
        async with looks:
            count += 1
            looks.notify_all()
        return web.Response(status=503) if is_cut else web.json_response({"session": "the same"})

    async def describe(request: web.Request) -> web.Response:
        return web.json_response({"format": 1, "seeds": [{"digest": str(each)} for each in seeded]})

    async def take(request: web.Request) -> web.Response:
        if is_cut:
            return web.Response(status=503)
        async with looks:
            told.append((request.match_info["digest"], request.query["rank"], request.query["replicas"]))
            looks.notify_all()
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/site/v1/seeding", say)
    app.router.add_get("/site/v1/seeds", describe)
    app.router.add_put("/site/v1/seeds/{digest}", take)
    async with TestServer(app) as server, asyncio.timeout(60):
        seeds = Seeds([str(server.make_url("")).rstrip("/")], None, tmp_path, look_seconds=0)

        async def looked(times: int) -> None:
            until = count + times
            async with looks:
                await looks.wait_for(lambda: count >= until)

        seeds.start()
        await looked(2)
        is_cut = True
        await looked(4)
        (tmp_path / f"{missed.hex}.torrent").write_bytes(b"torrent")
        is_cut = False
        async with looks:
            await looks.wait_for(lambda: told)
        await looked(2)
        await seeds.close()
    assert set(told) == {(str(missed), "0", "1")}


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
