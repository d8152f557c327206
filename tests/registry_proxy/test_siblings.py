"""Sites that give each other what they hold: caches with their routes, a seeder that names siblings, upstreams."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from imagedist.config import ProxyConfig
from imagedist.distribution.backend import Target
from imagedist.errors import IntegrityError
from imagedist.metrics import BYTES_BY_SOURCE
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.tls import Tls
from imagedist.store.blobs import BlobStore
from registry_proxy import siblings as module
from registry_proxy.cache import SiteCache
from registry_proxy.held import add_held_routes
from registry_proxy.siblings import Siblings
from registry_proxy.upstream import Upstreams
from tests.support.certificates import Authority
from tests.support.registry import PASSWORD, USERNAME, FaultyRegistry

LAYER = os.urandom(2 << 20)
BLOB = Digest.of(LAYER)
TARGET = Target("up", "team/app")


class Seeder:
    """Names the siblings."""

    def __init__(self) -> None:
        self.siblings: list[dict[str, Any]] = []
        self.status = 200
        app = web.Application()
        app.router.add_get("/site/v1/sites", self._sites)
        self.server = TestServer(app, host="127.0.0.1")

    async def _sites(self, request: web.Request) -> web.Response:
        body = {"format": 1, "site": "here", "siblings": self.siblings}
        return web.json_response(body, status=self.status)

    @property
    def url(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    def name(self, name: str, proxy: str, cost: int = 10) -> None:
        self.siblings.append({"name": name, "proxy": proxy, "seeder": "http://nowhere", "cost": cost})


class OneSite:
    """A site's cache, with the routes that siblings ask."""

    def __init__(self, directory: Path, upstream: FaultyRegistry, **settings: Any) -> None:
        directory.mkdir(parents=True)
        self.upstream = upstream
        self.seeder = Seeder()
        proxy = {"listen": "127.0.0.1:0", "site_blobs": directory}
        table = {"url": upstream.url} | settings
        self._upstreams = Upstreams(ProxyConfig.model_validate({"proxy": proxy, "upstreams": {"up": table}}))
        self.asked: list[str] = []
        self._directory = directory

    async def start(self) -> OneSite:
        await self.seeder.server.start_server()
        self.siblings = Siblings([self.seeder.url])
        self.cache = SiteCache(BlobStore(self._directory), self._upstreams, self.siblings)

        @web.middleware
        async def note(request: web.Request, handler: Any) -> web.StreamResponse:
            self.asked.append(f"{request.method} {request.path}")
            response: web.StreamResponse = await handler(request)
            return response

        app, site = web.Application(middlewares=[note]), web.Application()
        add_held_routes(site, self.cache, None)
        app.add_subapp("/site/v1", site)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()
        return self

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    async def knows(self, *siblings: tuple[str, str, int]) -> None:
        for sibling in siblings:
            self.seeder.name(*sibling)
        assert await self.siblings.refresh()

    async def read(self, digest: Digest = BLOB) -> bytes:
        blob = await self.cache.open_blob(TARGET, digest)
        try:
            content = b""
            while len(content) < blob.size_bytes:
                content += await blob.read(len(content), 1 << 20)
            return content
        finally:
            await blob.close()

    async def close(self) -> None:
        await self.siblings.close()
        await self.cache.close()
        await self._upstreams.close()
        await self._server.close()
        await self.seeder.server.close()


StartSite = Callable[..., Awaitable[OneSite]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[StartSite]:
    """Starts sites, each with an upstream of its own that has the image."""
    made: list[tuple[OneSite, FaultyRegistry]] = []

    async def start(**settings: Any) -> OneSite:
        upstream = await FaultyRegistry().__aenter__()
        upstream.add_image("team/app", "1", LAYER)
        one = await OneSite(tmp_path / f"s{len(made)}", upstream, **settings).start()
        made.append((one, upstream))
        return one

    yield start
    for one, upstream in made:
        await one.close()
        await upstream.__aexit__()


async def test_what_a_sibling_holds_does_not_come_from_upstream(site: StartSite) -> None:
    here, there = await site(), await site()
    manifest = await there.cache.manifest(TARGET, "1")
    await there.read()
    await here.knows(("there", there.url, 10))
    before = BYTES_BY_SOURCE.labels(source="sibling")._value.get()
    assert (await here.cache.manifest(TARGET, str(manifest.digest))).body == manifest.body
    assert await here.read() == LAYER
    assert not here.upstream.requests
    assert BYTES_BY_SOURCE.labels(source="sibling")._value.get() - before == len(LAYER) + len(manifest.body)
    assert here.cache.store.has(BLOB)


async def test_nearest_sibling_that_holds_it_gives_it_and_the_upstream_comes_last(site: StartSite) -> None:
    here, near, far, nobody = await site(), await site(), await site(), await site()
    await far.read()
    await here.knows(("nobody", nobody.url, 1), ("far", far.url, 100), ("near", near.url, 20))
    assert await here.read() == LAYER
    assert [len(each.asked) for each in (nobody, near, far)] == [1, 1, 1]
    other = here.upstream.add_blob(b"only upstream has it")
    assert await here.read(other) == b"only upstream has it"
    assert [len(each.asked) for each in (nobody, near, far)] == [2, 2, 2]


async def test_a_dead_nearest_sibling_is_followed_by_the_next_and_not_by_the_upstream(site: StartSite) -> None:
    here, far = await site(), await site()
    await far.read()
    await here.knows(("dead", "http://127.0.0.1:1", 1), ("far", far.url, 20))
    assert await here.read() == LAYER
    assert len(far.asked) == 1
    assert not here.upstream.requests


async def test_sibling_that_speaks_https_by_an_authority_of_its_own_is_believed(
    site: StartSite, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    here, there = await site(), await site()
    await there.read()
    app, held = web.Application(), web.Application()
    add_held_routes(held, there.cache, None)
    app.add_subapp("/site/v1", held)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("there"))
    server = TestServer(app, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    here.seeder.name("there", str(server.make_url("")).rstrip("/"))
    here.siblings = here.cache._nearby = Siblings([here.seeder.url], Tls(authority.ca))
    try:
        await here.knows()
        assert await here.read() == LAYER
        assert not here.upstream.requests
    finally:
        await server.close()


async def test_sites_that_name_each_other_do_not_ask_in_circles(site: StartSite) -> None:
    one, other = await site(), await site()
    await one.knows(("other", other.url, 1))
    await other.knows(("one", one.url, 1))
    assert await one.read() == LAYER
    assert (len(one.asked), len(other.asked)) == (0, 1)
    assert not other.upstream.requests
    assert one.upstream.blob_gets[BLOB] == 1


async def test_tags_are_not_asked_of_siblings_and_not_told_to_them(site: StartSite) -> None:
    here, there = await site(), await site()
    await there.cache.manifest(TARGET, "1")
    await here.knows(("there", there.url, 1))
    await here.cache.manifest(TARGET, "1")
    assert there.asked == []
    async with RegistryClient(f"{there.url}/site/v1/held") as client:
        for ask in (client.manifest("team/app", "1"), client.tags("team/app"), client.referrers("team/app", BLOB)):
            with pytest.raises(Exception, match="told to sibling sites"):
                await ask


@pytest.mark.parametrize("asker", ["sibling", "site"])
async def test_private_blobs_neither_go_to_siblings_nor_come_from_them(
    site: StartSite, tmp_path: Path, asker: str
) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    login = {"username": USERNAME, "password_file": tmp_path / "password"}
    private, public = await site(**login), await site()
    private.upstream.auth = "basic"
    if asker == "sibling":
        manifest = await private.cache.manifest(TARGET, "1")
        await private.read()
        await public.knows(("private", private.url, 1))
        assert await public.read() == LAYER
        assert (await public.cache.manifest(TARGET, str(manifest.digest))).body == manifest.body
        assert len(private.asked) == 2
        assert public.upstream.blob_gets[BLOB] == 1
    else:
        await public.read()
        await private.knows(("public", public.url, 1))
        assert await private.read() == LAYER
        assert public.asked == []


async def test_sibling_that_breaks_off_is_continued_by_the_upstream(site: StartSite) -> None:
    here = await site()
    async with FaultyRegistry() as broken:
        broken.add_blob(LAYER)
        broken.cuts = [1 << 20, *([0] * 9)]
        app = web.Application()
        app.router.add_get("/site/v1/held/v2/{path:.*}", broken._handle)
        async with TestServer(app, host="127.0.0.1") as server:
            await here.knows(("broken", str(server.make_url("")), 1))
            assert await here.read() == LAYER
    assert here.upstream.blob_gets[BLOB] == 1


async def test_sibling_that_lies_is_left_alone(site: StartSite) -> None:
    here = await site()
    async with FaultyRegistry() as liar:
        liar.add_blob(LAYER)
        liar.corrupt = True
        app = web.Application()
        app.router.add_get("/site/v1/held/v2/{path:.*}", liar._handle)
        async with TestServer(app, host="127.0.0.1") as server:
            await here.knows(("liar", str(server.make_url("")), 1))
            with pytest.raises(IntegrityError):
                await here.read()
            assert await here.read() == LAYER
            assert liar.blob_gets[BLOB] == 1


async def test_dead_sibling_costs_one_time_out_once(site: StartSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 1.0)
    here = await site()
    asked = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    try:
        await here.knows(("dead", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 1))
        others = [here.upstream.add_blob(os.urandom(100)) for _ in range(5)]
        for digest in (BLOB, *others):
            await here.read(digest)
        assert asked == 1
        (source,) = here.siblings()
        with pytest.raises(Exception, match=r"registry of site dead is not asked for another \d+ s"):
            await source.client.blob_size("x", BLOB)
    finally:
        server.close()


async def test_siblings_are_learnt_again_and_kept_while_no_seeder_answers(site: StartSite) -> None:
    here = await site()
    await here.knows(("a", "http://127.0.0.1:1", 5), ("b", "http://127.0.0.1:2", 1))
    assert [source.client.name for source in here.siblings()] == ["of site b", "of site a"]
    known = here.siblings()[1]
    here.seeder.siblings.pop()
    assert await here.siblings.refresh()
    assert here.siblings() == [known]
    here.seeder.status = 500
    assert not await here.siblings.refresh()
    assert here.siblings() == [known]
    here.seeder.status, here.seeder.siblings = 200, [{"name": "x", "proxy": "file:///etc/passwd", "cost": 1}]
    assert not await here.siblings.refresh()
    await here.seeder.server.close()
    assert not await here.siblings.refresh()
    assert here.siblings() == [known]


async def test_busy_sibling_is_left_alone_for_a_while(site: StartSite) -> None:
    here = await site()

    async def busy(request: web.Request) -> web.Response:
        return web.Response(status=503)

    app = web.Application()
    app.router.add_get("/{path:.*}", busy)
    async with TestServer(app, host="127.0.0.1") as server:
        await here.knows(("busy", str(server.make_url("")), 1))
        assert await here.read() == LAYER
    (source,) = here.siblings()
    assert source.client.breaker is not None
    assert source.client.breaker.is_open
