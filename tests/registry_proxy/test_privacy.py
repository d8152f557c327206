"""What came through an upstream with credentials is not given to who merely knows its digest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.distribution.backend import Target
from imagedist.errors import IntegrityError, NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.privacy import PrivateBlobs
from registry_proxy.app import create_app
from registry_proxy.cache import SiteCache
from registry_proxy.upstream import UpstreamRepository, Upstreams
from tests.support.registry import PASSWORD, USERNAME, FaultyRegistry

LAYER = os.urandom(2 << 20)
BLOB = Digest.of(LAYER)
Client = TestClient[web.Request, web.Application]
StartProxy = Callable[..., Awaitable[Client]]


@pytest.fixture
async def vault() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.auth = "basic"
        registry.add_image("team/app", "1", LAYER)
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[FaultyRegistry]:
    """The registry of both other upstreams: ``open`` needs no credentials, ``safe`` is asked with some."""
    async with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
def config(vault: FaultyRegistry, other: FaultyRegistry, tmp_path: Path) -> ProxyConfig:
    (tmp_path / "password").write_text(PASSWORD)
    login = {"username": USERNAME, "password_file": str(tmp_path / "password")}
    upstreams: dict[str, Any] = {
        "vault": {"url": vault.url} | login,
        "safe": {"url": other.url} | login,
        "open": {"url": other.url},
    }
    proxy = {"listen": "127.0.0.1:0", "site_blobs": str(tmp_path / "site"), "site_blobs_quota": "3MiB"}
    return ProxyConfig.model_validate({"proxy": proxy, "upstreams": upstreams})


@pytest.fixture
async def start(config: ProxyConfig) -> AsyncIterator[StartProxy]:
    clients: list[Client] = []

    async def start() -> Client:
        client: Client = TestClient(TestServer(create_app(config)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def proxy(start: StartProxy) -> Client:
    return await start()


@pytest.fixture
async def cache(config: ProxyConfig) -> AsyncIterator[SiteCache]:
    cache = SiteCache(BlobStore(config.proxy.site_blobs), Upstreams(config))
    yield cache
    await cache.close()
    await cache.upstreams.close()


def note(tmp_path: Path) -> Path:
    return tmp_path / "site" / "private" / f"sha256-{BLOB.hex}"


async def get(proxy: Client, upstream: str, digest: Digest = BLOB) -> tuple[int, bytes]:
    response = await proxy.get(f"/v2/{upstream}/team/app/blobs/{digest}")
    return response.status, await response.read()


async def get_torrent_status(proxy: Client, upstream: str) -> int:
    response = await proxy.get(f"/site/v1/torrents/{BLOB}?repo={upstream}/team/app&wait=5")
    return response.status


@pytest.mark.parametrize("upstream", ["open", "safe"])
async def test_private_blob_is_unknown_to_who_names_an_upstream_without_it(
    start: StartProxy, tmp_path: Path, upstream: str
) -> None:
    proxy = await start()
    assert await get(proxy, "vault") == (200, LAYER)
    assert note(tmp_path).read_text() == "vault\n"
    for again in (proxy, await start()):  # a restarted proxy remembers
        assert (await get(again, upstream))[0] == 404
        assert (await again.head(f"/v2/{upstream}/team/app/blobs/{BLOB}")).status == 404
        assert await get_torrent_status(again, upstream) == 404
        assert await get(again, "vault") == (200, LAYER)
    assert await get_torrent_status(proxy, "vault") == 202
    assert not (tmp_path / "site" / "torrents").exists()


async def test_public_upstream_that_has_the_blob_opens_it_for_everyone(
    proxy: Client, other: FaultyRegistry, tmp_path: Path
) -> None:
    await get(proxy, "vault")
    other.add_blob(LAYER)
    assert await get(proxy, "open") == (200, LAYER)
    assert not note(tmp_path).exists()
    assert await get_torrent_status(proxy, "open") == 200
    assert await get(proxy, "safe") == (200, LAYER)
    assert other.requests == {f"HEAD /v2/team/app/blobs/{BLOB}": 1}


async def test_another_private_upstream_is_asked_once_and_remembered(
    proxy: Client, other: FaultyRegistry, tmp_path: Path
) -> None:
    await get(proxy, "vault")
    other.add_blob(LAYER)
    for _ in range(3):
        assert await get(proxy, "safe") == (200, LAYER)
    assert other.requests == {f"HEAD /v2/team/app/blobs/{BLOB}": 1}
    assert note(tmp_path).read_text() == "safe\nvault\n"


async def test_registry_that_answers_with_another_size_does_not_have_the_blob(
    proxy: Client, other: FaultyRegistry
) -> None:
    await get(proxy, "vault")
    other.blobs[BLOB] = b"<html>welcome</html>"
    assert (await get(proxy, "open"))[0] == 404


async def test_blob_that_a_public_upstream_sent_is_not_private(proxy: Client, other: FaultyRegistry) -> None:
    other.add_blob(LAYER)
    assert await get(proxy, "open") == (200, LAYER)
    assert await get(proxy, "vault") == (200, LAYER)
    assert await get_torrent_status(proxy, "open") == 200
    assert other.requests == {f"GET /v2/team/app/blobs/{BLOB}": 1}


async def test_private_blob_on_its_way_is_unknown_to_others(cache: SiteCache, vault: FaultyRegistry) -> None:
    vault.gate = asyncio.Event()
    arrival = await cache.arrival(Target("vault", "team/app"), BLOB)
    assert not arrival.is_committed
    for upstream in ("open", "safe"):
        with pytest.raises(NotFoundError):
            await cache.open_blob(Target(upstream, "team/app"), BLOB)
        with pytest.raises(NotFoundError):
            await cache.blob_size(Target(upstream, "team/app"), BLOB)
    vault.gate.set()
    await arrival.wait()


async def test_asker_of_a_public_upstream_does_not_inherit_the_private_fetch(
    cache: SiteCache, other: FaultyRegistry
) -> None:
    other.hidden_from = "team/app"
    outsider = asyncio.create_task(cache.open_blob(Target("open", "team/app"), BLOB))
    await other.asked.wait()
    insider = asyncio.create_task(cache.arrival(Target("vault", "team/app"), BLOB))
    await asyncio.sleep(0)  # it has joined the outsider's fetch
    other.answer.set()
    await (await insider).wait()
    with pytest.raises(NotFoundError, match="has no"):
        await outsider


async def test_asker_whose_upstream_was_not_asked_is_not_given_the_answer_of_others(
    cache: SiteCache, other: FaultyRegistry
) -> None:
    other.hidden_from = "team/0"
    first = asyncio.create_task(cache.arrival(Target("open", "team/0"), BLOB))
    await other.asked.wait()
    crowd = [asyncio.create_task(cache.arrival(Target("open", f"team/{n}"), BLOB)) for n in range(1, 20)]
    insider = asyncio.create_task(cache.arrival(Target("vault", "team/app"), BLOB))
    await asyncio.sleep(0)  # they have joined, too many to try them all
    other.answer.set()
    await (await insider).wait()
    results = await asyncio.gather(first, *crowd, return_exceptions=True)
    assert {type(result) for result in results} == {NotFoundError}


async def test_eviction_takes_the_note_along(
    proxy: Client, vault: FaultyRegistry, other: FaultyRegistry, tmp_path: Path
) -> None:
    await get(proxy, "vault")
    content = os.urandom(2 << 20)
    assert await get(proxy, "open", other.add_blob(content)) == (200, content)
    assert not note(tmp_path).exists()
    assert await get(proxy, "vault") == (200, LAYER)
    assert note(tmp_path).exists()


async def test_start_keeps_the_notes_of_what_is_here_or_on_its_way_and_no_others(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    here, arriving, gone = (Digest.of(name) for name in (b"here", b"arriving", b"gone"))
    store.path(here).touch()
    store.partial_path(arriving).touch()
    notes = PrivateBlobs(store)
    passing = Digest.of(b"passing through another process")
    for digest in (here, arriving, gone, passing):
        await notes.add(digest, "vault")
        if digest != passing:
            os.utime(tmp_path / "private" / f"sha256-{digest.hex}", (0, 0))

    notes = PrivateBlobs(store)
    assert await notes.owners(passing) == {"vault"}
    assert [await notes.owners(digest) for digest in (here, arriving, gone)] == [{"vault"}, {"vault"}, None]
    assert len(list((tmp_path / "private").iterdir())) == 3
    await notes.forget(arriving)  # evicted, but on its way again
    assert await notes.owners(arriving) == {"vault"}


async def test_note_that_was_cut_short_still_keeps_the_blob_private(proxy: Client, tmp_path: Path) -> None:
    await get(proxy, "vault")
    note(tmp_path).write_bytes(b"")
    assert (await get(proxy, "open"))[0] == 404
    assert await get(proxy, "vault") == (200, LAYER)
    assert note(tmp_path).read_text() == "vault\n"


async def test_private_manifest_is_given_by_digest_only_where_its_upstream_has_it(
    start: StartProxy, vault: FaultyRegistry, other: FaultyRegistry
) -> None:
    proxy = await start()
    response = await proxy.get("/v2/vault/team/app/manifests/1")
    manifest, body = response.headers["Docker-Content-Digest"], await response.read()

    async def status(proxy: Client, upstream: str, repository: str = "team/app") -> int:
        return (await proxy.get(f"/v2/{upstream}/{repository}/manifests/{manifest}")).status

    for again in (proxy, await start()):
        assert [await status(again, upstream) for upstream in ("vault", "open", "safe")] == [200, 404, 404]
    other.requests.clear()
    other.add_manifest("team/copy", None, body)
    for _ in range(2):
        assert await status(proxy, "safe", "team/copy") == 200
    assert await status(proxy, "open") == 404  # remembered, and not opened by the other private upstream
    assert other.requests == {f"HEAD /v2/team/copy/manifests/{manifest}": 1}
    assert await status(proxy, "open", "team/copy") == 200
    assert await status(await start(), "open", "team/elsewhere") == 200
    await proxy.get("/v2/vault/team/app/manifests/1")  # asking the private upstream again does not close it
    assert await status(proxy, "open", "team/elsewhere") == 200


class Anybodys(Upstreams):
    """``open`` is a registry that nobody has configured (``allow_any``)."""

    def resolve(self, target: Target) -> UpstreamRepository:
        place = super().resolve(target)
        return replace(place, is_trusted=place.upstream != "open")


@pytest.fixture
async def exposed(config: ProxyConfig) -> AsyncIterator[SiteCache]:
    cache = SiteCache(BlobStore(config.proxy.site_blobs), Anybodys(config))
    yield cache
    await cache.close()
    await cache.upstreams.close()


async def test_registry_of_anybody_opens_a_private_blob_only_by_sending_it(
    exposed: SiteCache, other: FaultyRegistry
) -> None:
    await (await exposed.arrival(Target("vault", "team/app"), BLOB)).wait()
    other.blobs[BLOB] = bytes(len(LAYER))  # it says to have it, size and all
    for ask in (exposed.open_blob, exposed.blob_size, exposed.arrival):
        with pytest.raises(NotFoundError):
            await ask(Target("open", "team/app"), BLOB)
    assert exposed.is_private(BLOB)
    other.blobs[BLOB] = LAYER
    assert await exposed.blob_size(Target("open", "team/app"), BLOB) == len(LAYER)
    assert not exposed.is_private(BLOB)


async def test_registry_of_anybody_does_not_go_on_with_a_private_blob_that_has_begun_to_arrive(
    exposed: SiteCache, other: FaultyRegistry, tmp_path: Path
) -> None:
    exposed.store.partial_path(BLOB).write_bytes(LAYER[: 1 << 20])
    note(tmp_path).write_text("vault\n")
    other.blobs[BLOB] = bytes(len(LAYER))
    with pytest.raises(SourceError, match="has begun to arrive for others"):
        await exposed.open_blob(Target("open", "team/app"), BLOB)


async def test_who_was_let_in_by_a_registry_of_anybody_gets_nothing_of_the_private_fetch_that_follows(
    exposed: SiteCache, other: FaultyRegistry
) -> None:
    other.blobs[BLOB], other.lie_bytes, other.gate = LAYER[: 1 << 20], 1 << 20, asyncio.Event()
    outsider = await exposed.open_blob(Target("open", "team/app"), BLOB)
    insider = await exposed.open_blob(Target("vault", "team/app"), BLOB)  # joins that fetch
    del other.blobs[BLOB]  # it breaks off after half of what it promised, and cannot go on
    other.gate.set()
    for blob in (outsider, insider):
        with pytest.raises(IntegrityError, match="broke off"):
            await blob.read(len(LAYER) - 2, 1)
        await blob.close()
    assert not exposed.store.partial_path(BLOB).exists()
    await (await exposed.arrival(Target("vault", "team/app"), BLOB)).wait()
    with pytest.raises(NotFoundError):
        await exposed.open_blob(Target("open", "team/app"), BLOB)


async def test_registry_of_anybody_opens_a_private_manifest_only_by_sending_it(
    exposed: SiteCache, vault: FaultyRegistry, other: FaultyRegistry
) -> None:
    manifest = await exposed.manifest(Target("vault", "team/app"), "1")
    path = ("team/app", str(manifest.digest))
    other.lies[path[1]] = manifest.digest
    other.manifests[path] = (manifest.media_type, b"{}")
    with pytest.raises(IntegrityError):
        await exposed.manifest(Target("open", "team/app"), path[1])
    assert (await exposed.manifest(Target("vault", "team/app"), path[1])).digest == manifest.digest


async def test_what_was_private_is_asked_for_when_its_upstream_becomes_public(
    cache: SiteCache, config: ProxyConfig, vault: FaultyRegistry
) -> None:
    await (await cache.arrival(Target("vault", "team/app"), BLOB)).wait()
    manifest = await cache.manifest(Target("vault", "team/app"), "1")
    settings = config.upstreams["vault"].model_copy(update={"username": None, "password_file": None})
    public = config.model_copy(update={"upstreams": {**config.upstreams, "vault": settings}})
    later = SiteCache(BlobStore(config.proxy.site_blobs), Upstreams(public))
    try:
        with pytest.raises(UnauthorizedError):
            await later.open_blob(Target("vault", "team/app"), BLOB)
        with pytest.raises(UnauthorizedError):
            await later.manifest(Target("vault", "team/app"), str(manifest.digest))
    finally:
        await later.close()
        await later.upstreams.close()


async def test_notes_of_one_blob_are_bounded(tmp_path: Path) -> None:
    notes = PrivateBlobs(BlobStore(tmp_path))
    (tmp_path / "private" / f"sha256-{BLOB.hex}").write_text("".join(f"up/repo{n}\n" for n in range(500)))
    await notes.add(BLOB, "up/new")
    owners = await notes.owners(BLOB)
    assert owners is not None
    assert len(owners) == 256
    assert "up/new" in owners
