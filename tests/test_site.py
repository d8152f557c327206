"""The site as a node sees it: when one proxy is gone, the next one answers."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.distribution.backend import Target
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import NotFoundError, SourceError
from imagedist.nodes import Heartbeat
from imagedist.oci.digest import Digest
from imagedist.service import serving
from imagedist.site import Site
from imagedist.site.web_seeds import WebSeed
from tests.support.registry import PASSWORD, USERNAME, FaultyRegistry, basic
from tests.support.waiting import until

DEAD = "http://127.0.0.1:1"
TARGET = Target("registry.example", "team/app")


async def collected(site: Site, registry: FaultyRegistry, content: bytes) -> bytes:
    received = bytearray()
    with ThreadPoolExecutor(1) as threads:
        await site.deliver(TARGET, registry.add_blob(content), len(content), 0, received.extend, threads)
    return bytes(received)


async def test_the_next_proxy_answers_when_the_first_is_gone() -> None:
    async with FaultyRegistry() as registry:
        wanted = registry.add_image("team/app", "1", b"layer")
        site = Site([DEAD, registry.url], [], "node")
        try:
            assert (await site.manifest(TARGET, "1")).digest == wanted
            assert await collected(site, registry, b"blob" * 1000) == b"blob" * 1000
        finally:
            await site.close()


@pytest.mark.parametrize("rate", [None, ChangingRate(1 << 40)], ids=["free", "capped"])
async def test_a_blob_goes_on_at_the_next_proxy_behind_what_has_come(rate: ChangingRate | None) -> None:
    content = bytes(range(256)) * 10_000
    async with FaultyRegistry() as first, FaultyRegistry() as second:
        first.add_blob(content)
        first.cuts = [1_000_000] + [0] * 50
        site = Site([first.url, second.url], [], "node", rate=rate)
        try:
            assert await collected(site, second, content) == content
        finally:
            await site.close()
        assert second.bytes_sent < len(content)


async def test_what_a_proxy_does_not_have_is_not_asked_of_the_next() -> None:
    async with FaultyRegistry() as first, FaultyRegistry() as second:
        second.add_image("team/app", "1", b"layer")
        site = Site([first.url, second.url], [], "node")
        try:
            with pytest.raises(NotFoundError, match="team/app:1"):
                await site.manifest(TARGET, "1")
        finally:
            await site.close()


async def test_a_site_without_any_proxy_left_says_so() -> None:
    site = Site([DEAD], [DEAD], "node")
    try:
        with pytest.raises(SourceError, match="the site cannot answer: cannot reach registry 127"):
            await site.manifest(TARGET, "1")
        assert "does not answer" in (await site.unready() or "")
        with pytest.raises(SourceError):
            await site.seeders.heartbeat(Heartbeat())
    finally:
        await site.close()


async def test_authorization_of_a_nodes_client_goes_to_the_proxy_as_it_is() -> None:
    mine = replace(TARGET, authorization=basic(USERNAME, PASSWORD))
    async with FaultyRegistry() as registry:
        registry.auth = "basic"
        wanted = registry.add_image("team/app", "1", b"layer")
        site = Site([registry.url], [], "node")
        try:
            assert (await site.manifest(mine, "1")).digest == wanted
            with pytest.raises(SourceError, match="denied"):
                await site.manifest(TARGET, "1")
        finally:
            await site.close()


async def test_a_cap_that_comes_while_a_blob_flows_holds_for_its_rest() -> None:
    content = bytes(range(256)) * 10_000
    asked: list[float] = []

    async def pause(changed: asyncio.Event, seconds: float) -> None:
        asked.append(seconds)
        rate.set(None)  # or the test would take as long as the cap says

    rate = ChangingRate(None, pause=pause)
    received = bytearray()

    def consume(chunk: bytes | memoryview) -> None:
        received.extend(chunk)
        if len(received) == len(chunk):  # the first
            asyncio.run_coroutine_threadsafe(cap(), loop).result()

    async def cap() -> None:
        rate.set(1)

    loop = asyncio.get_running_loop()
    async with FaultyRegistry() as registry:
        site = Site([registry.url], [], "node", rate=rate)
        with ThreadPoolExecutor(1) as threads:
            await site.deliver(TARGET, registry.add_blob(content), len(content), 0, consume, threads)
        await site.close()
    assert received == content
    assert asked


async def test_an_older_proxy_knows_no_web_seeds_so_the_plain_url_serves_but_not_for_private_blobs() -> None:
    digest = Digest.of(b"blob")
    async with FaultyRegistry() as registry:
        site = Site([registry.url], [], "node")
        try:
            found = await site.web_seeds.of(TARGET, digest, is_private=False)
            assert found == WebSeed(f"{registry.url}/v2/team/app/blobs/{digest}?ns=registry.example", None)
            assert await site.web_seeds.of(TARGET, digest, is_private=True) is None
        finally:
            await site.close()


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"path": "http://elsewhere/"}', b'{"path": "/a b", "life_seconds": 1}']
)
async def test_nonsense_is_no_web_seed(answer: bytes) -> None:
    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(body=answer)

    app = web.Application()
    app.router.add_get("/site/v1/web-seeds/{digest}", nonsense)
    async with serving(app, Address("127.0.0.1", 0)) as proxy:
        site = Site([f"http://{proxy}"], [], "node")
        try:
            with pytest.raises(SourceError, match="names no web seed"):
                await site.web_seeds.of(TARGET, Digest.of(b"blob"), is_private=False)
        finally:
            await site.close()


async def test_a_question_is_answered_however_many_are_held_back_by_the_site() -> None:
    held, over = 0, asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        nonlocal held
        if request.query["wait"] == "0":
            return web.Response(status=404)
        held += 1
        await over.wait()
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/site/v1/torrents/{digest}", hold)
    async with serving(app, Address("127.0.0.1", 0)) as address:
        site = Site([f"http://{address}"], [], "node")
        asking = [asyncio.create_task(site.torrent(TARGET, Digest.of(b"%d" % at), 30)) for at in range(150)]
        await until(lambda: held >= 100)
        with pytest.raises(NotFoundError):
            async with asyncio.timeout(60):
                await site.torrent(TARGET, Digest.of(b"another"), 0)
        over.set()
        await asyncio.gather(*asking, return_exceptions=True)
        await site.close()
