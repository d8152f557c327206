"""Referrers through the proxy: of an upstream with the API, of one without, and of one that lies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX, OCI_MANIFEST
from registry_proxy.app import create_app
from tests.support.registry import FaultyRegistry

SUBJECT = Digest.of(b"subject")
SBOM = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"1")), "size": 1, "artifactType": "a/sbom"}
SIGNATURE = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"2")), "size": 1, "artifactType": "a/signature"}
PATH = f"/v2/up/team/app/referrers/{SUBJECT}"
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
async def proxy(upstream: FaultyRegistry, tmp_path: Path) -> AsyncIterator[Client]:
    tables = {
        "proxy": {"listen": "127.0.0.1:0", "site_blobs": str(tmp_path / "site")},
        "upstreams": {"up": {"url": upstream.url}},
    }
    async with TestClient(TestServer(create_app(ProxyConfig.model_validate(tables)))) as client:
        yield client


async def listed(proxy: Client, path: str = PATH) -> tuple[list[dict[str, Any]], str | None, str | None]:
    response = await proxy.get(path)
    assert response.status == 200
    assert response.headers["Content-Type"] == OCI_INDEX
    manifests = json.loads(await response.read())["manifests"]
    return manifests, response.headers.get("OCI-Filters-Applied"), response.headers.get("Link")


def index(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


async def test_pages_of_the_upstreams_api_are_followed_through_the_mirror(
    proxy: Client, upstream: FaultyRegistry
) -> None:
    upstream.referrers = {SUBJECT: [SBOM, SIGNATURE]}
    first, applied, link = await listed(proxy)
    assert (first, applied) == ([SBOM], None)
    assert link is not None
    second, _, end = await listed(proxy, link[1 : link.index(">")])
    assert (second, end) == ([SIGNATURE], None)


async def test_filter_is_applied_where_the_upstream_does_not(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.referrers = {SUBJECT: [SBOM, SIGNATURE]}
    first, applied, link = await listed(proxy, f"{PATH}?artifactType=a/signature")
    assert (first, applied) == ([], "artifactType")
    assert link is not None
    assert "artifactType=a%2Fsignature" in link
    second, _, _ = await listed(proxy, link[1 : link.index(">")])
    assert second == [SIGNATURE]


async def test_without_the_api_the_tag_that_stands_for_it_is_read(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.add_manifest("team/app", f"sha256-{SUBJECT.hex}", index(SBOM, SIGNATURE), OCI_INDEX)
    assert await listed(proxy) == ([SBOM, SIGNATURE], None, None)
    assert await listed(proxy, f"{PATH}?artifactType=a/sbom") == ([SBOM], "artifactType", None)


async def test_tag_of_a_longer_digest_is_its_beginning(proxy: Client, upstream: FaultyRegistry) -> None:
    subject = Digest.of(b"subject", "sha512")
    upstream.add_manifest("team/app", f"sha512-{subject.hex[:64]}", index(SBOM), OCI_INDEX)
    assert (await listed(proxy, f"/v2/up/team/app/referrers/{subject}"))[0] == [SBOM]


async def test_nothing_refers_to_it_is_an_empty_index_never_404(proxy: Client, upstream: FaultyRegistry) -> None:
    assert await listed(proxy) == ([], None, None)
    upstream.referrers = {}
    assert await listed(proxy, f"/v2/up/other/app/referrers/{SUBJECT}?artifactType=a/sbom") == (
        [],
        "artifactType",
        None,
    )


async def test_tag_that_is_no_index_is_taken_for_no_referrers(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.add_manifest("team/app", f"sha256-{SUBJECT.hex}", b"{}", OCI_MANIFEST)
    assert await listed(proxy) == ([], None, None)


async def test_upstream_without_the_api_is_not_asked_for_it_each_time(proxy: Client, upstream: FaultyRegistry) -> None:
    for _ in range(3):
        await listed(proxy)
    assert upstream.requests[f"GET /v2/team/app/referrers/{SUBJECT}"] == 1


async def test_upstream_that_fails_is_no_upstream_without_referrers(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.statuses = [501]
    response = await proxy.get(PATH)
    assert response.status == 502
