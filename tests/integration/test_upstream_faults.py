"""A whole image pulled through the assembled proxy from a registry that fails in one way after the other."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.oci import bulk, raw_body
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_MANIFEST
from registry_proxy.app import create_app
from tests.support.registry import FaultyRegistry

LAYER = os.urandom(4 << 20)
NAME = "up/team/app"
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.add_image("team/app", "1", LAYER)
        yield registry


async def start(upstream_url: str, directory: Path, **settings: Any) -> Client:
    directory.mkdir(exist_ok=True)
    config = ProxyConfig.model_validate(
        {
            "proxy": {"listen": "127.0.0.1:0", "site_blobs": directory},
            "upstreams": {"up": {"url": upstream_url, "tag_ttl": "0s"} | settings},
        }
    )
    client: Client = TestClient(TestServer(create_app(config)))
    await client.start_server()
    return client


@pytest.fixture
async def proxy(upstream: FaultyRegistry, tmp_path: Path) -> AsyncIterator[Client]:
    client = await start(upstream.url, tmp_path / "site")
    yield client
    await client.close()


async def get(proxy: Client, path: str) -> tuple[int, bytes, str]:
    """Status, body and ``Warning``. Raises aiohttp.ClientPayloadError: the body was cut off."""
    async with proxy.get(f"/v2/{NAME}/{path}", headers={"Accept": OCI_MANIFEST}) as answer:
        return answer.status, await answer.read(), answer.headers.get("Warning", "")


async def pull(proxy: Client) -> None:
    status, manifest, _ = await get(proxy, "manifests/1")
    assert status == 200, manifest
    document = json.loads(manifest)
    for descriptor in (document["config"], *document["layers"]):
        status, content, _ = await get(proxy, f"blobs/{descriptor['digest']}")
        assert status == 200, content
        assert str(Digest.of(content)) == descriptor["digest"]


async def test_it_throttles(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.statuses, upstream.retry_after = [429, 429], "1"
    begun = asyncio.get_running_loop().time()
    await pull(proxy)
    assert asyncio.get_running_loop().time() - begun >= 2.0


async def test_it_answers_500_by_turns(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.fails_by_turns = True
    await pull(proxy)
    assert upstream.requests.total() == 6


async def test_it_cuts_bodies(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.cuts = [100, 1_500_000, 700_000, 1 << 20]
    await pull(proxy)
    assert not upstream.cuts


async def test_it_sends_wrong_bytes(proxy: Client, upstream: FaultyRegistry, tmp_path: Path) -> None:
    upstream.corrupt = True
    path = f"blobs/{Digest.of(LAYER)}"
    with pytest.raises(aiohttp.ClientPayloadError):
        await get(proxy, path)
    assert (await get(proxy, path))[0] == 502  # nobody asks again in the same moment
    assert not list((tmp_path / "site").rglob(Digest.of(LAYER).hex))
    upstream.corrupt = False
    status = 502
    while status == 502:
        status, content, _ = await get(proxy, path)
    assert content == LAYER


async def test_it_only_drips(proxy: Client, upstream: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SLOW_SECONDS", 0.05)
    for owner in (bulk, raw_body):
        monkeypatch.setattr(owner, "FILL_SECONDS", 0.02)
    upstream.drops = 0.01
    with pytest.raises(aiohttp.ClientPayloadError):
        await get(proxy, f"blobs/{Digest.of(LAYER)}")


async def test_it_never_answers(upstream: FaultyRegistry, tmp_path: Path) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    proxy = await start(upstream.url, tmp_path / "site")
    await pull(proxy)
    await proxy.close()
    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    proxy = await start(url, tmp_path / "site", answer_timeout="200ms")
    try:
        status, _, warning = await get(proxy, "manifests/1")
        assert status == 200
        assert warning.startswith("299")
        assert "stale" in warning
        status, body, _ = await get(proxy, f"blobs/{Digest.of(b'something else')}")
        assert status == 502
        assert b"cannot reach registry" in body
    finally:
        await proxy.close()
        silent.close()
