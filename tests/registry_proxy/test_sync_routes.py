"""What the seeder asks of a proxy for sync: what the registry says now, orders to fetch, tags that it keeps."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from imagedist.config import ProxyConfig
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX
from imagedist.preheat.shapes import KnownImages
from registry_proxy.app import create_app
from tests.support.registry import FaultyRegistry

LAYER = os.urandom(1 << 20)
BLOB = Digest.of(LAYER)
APP = "/v2/up/team/app/manifests"
TAG = {"ns": "up", "repo": "team/app", "tag": "1"}
Proxy = TestClient[web.Request, web.Application]


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
async def proxy(upstream: FaultyRegistry, tmp_path: Path) -> AsyncIterator[Proxy]:
    config = ProxyConfig.model_validate(
        {
            "proxy": {"listen": "127.0.0.1:0", "site_blobs": tmp_path / "site", "default_upstream": "up"},
            "upstreams": {"up": {"url": upstream.url, "negative_ttl": "0s", "hosts": ["registry.local:5000"]}},
        }
    )
    async with TestClient(TestServer(create_app(config))) as client:
        yield client


async def test_what_repositories_a_registry_has_is_told_to_the_sites_own_alone(
    upstream: FaultyRegistry, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    settings = {"listen": "127.0.0.1:0", "site_blobs": tmp_path / "site", "site_token_file": tmp_path / "token"}
    config = ProxyConfig.model_validate({"proxy": settings, "upstreams": {"up": {"url": upstream.url}}})
    async with TestClient(TestServer(create_app(config))) as client:
        query = {"ns": "up"}
        assert (await client.get("/site/v1/registry/repositories", params=query)).status == 401
        headers = {"Authorization": "Bearer secret"}
        assert (await client.get("/site/v1/registry/repositories", params=query, headers=headers)).status != 401


async def order(proxy: Proxy, digest: Digest, wait: str = "60", **body: Any) -> tuple[int, dict[str, Any]]:
    answer = await proxy.post(
        f"/site/v1/blobs/{digest}/fetch", params={"wait": wait}, json={"ns": "up", "repo": "team/app", **body}
    )
    return answer.status, await answer.json()


async def bring(proxy: Proxy, digest: Digest) -> None:
    """A whole image into the site."""
    manifest = json.loads(await (await proxy.get(f"{APP}/{digest}")).read())
    for blob in (manifest["config"], *manifest["layers"]):
        status, _ = await order(proxy, Digest.parse(blob["digest"]))
        assert status == 200


async def test_what_a_tag_means_now_is_told_past_all_that_is_kept(proxy: Proxy, upstream: FaultyRegistry) -> None:
    first = upstream.add_image("team/app", "1", LAYER)
    assert (await proxy.get(f"{APP}/1")).status == 200
    second = upstream.add_image("team/app", "1", os.urandom(100))
    answer = await proxy.get("/site/v1/registry/tag", params=TAG)
    assert (await answer.json())["digest"] == str(second) != str(first)
    assert (await proxy.get("/site/v1/registry/tag", params={**TAG, "tag": "2"})).status == 404


async def test_an_order_waits_until_the_blob_is_here(proxy: Proxy, upstream: FaultyRegistry) -> None:
    upstream.add_image("team/app", "1", LAYER)
    upstream.gate = asyncio.Event()
    status, state = await order(proxy, BLOB, wait="0", for_sync=True)
    assert (status, state["size"], state["here"]) == (202, len(LAYER), False)
    upstream.gate.set()
    status, state = await order(proxy, BLOB, for_sync=True)
    assert (status, state["present"], state["here"]) == (200, len(LAYER), True)
    assert upstream.blob_gets[BLOB] == 1


async def test_a_capped_order_is_hurried_up_by_who_wants_the_blob(proxy: Proxy, upstream: FaultyRegistry) -> None:
    upstream.add_image("team/app", "1", LAYER)
    status, _ = await order(proxy, BLOB, wait="0", for_sync=True, bytes_per_second=1000)  # a quarter of an hour
    assert status == 202
    async with asyncio.timeout(60):
        answer = await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")
        assert await answer.read() == LAYER
    assert upstream.blob_gets[BLOB] == 1


async def test_a_later_order_changes_the_cap_of_what_is_under_way(proxy: Proxy, upstream: FaultyRegistry) -> None:
    upstream.add_image("team/app", "1", LAYER)
    assert (await order(proxy, BLOB, wait="0", for_sync=True, bytes_per_second=1000))[0] == 202
    async with asyncio.timeout(60):
        assert (await order(proxy, BLOB, for_sync=True))[0] == 200


async def test_an_order_for_what_nobody_has_fails_with_the_registrys_words(proxy: Proxy) -> None:
    status, said = await order(proxy, BLOB, for_sync=True)
    assert status == 404
    assert str(BLOB) in said["error"]["message"]


async def test_a_tag_is_set_only_after_its_blobs_have_arrived(proxy: Proxy, upstream: FaultyRegistry) -> None:
    digest = upstream.add_image("team/app", "1", LAYER)
    body = {"digest": str(digest)}
    answer = await proxy.put("/site/v1/synced", params=TAG, json=body)
    assert answer.status == 400
    assert f"1 of its blobs are not in the site ({digest})" in (await answer.json())["error"]["message"]
    await proxy.get(f"{APP}/{digest}")
    answer = await proxy.put("/site/v1/synced", params=TAG, json=body)
    assert "2 of its blobs are not in the site" in (await answer.json())["error"]["message"]
    await bring(proxy, digest)
    assert (await proxy.put("/site/v1/synced", params=TAG, json=body)).status == 200


async def test_a_synced_tag_is_what_pullers_are_told_without_the_registry(
    proxy: Proxy, upstream: FaultyRegistry
) -> None:
    digest = upstream.add_image("team/app", None, LAYER)  # type: ignore[arg-type]  # by digest alone
    upstream.add_image("team/app", "1", os.urandom(100))
    await bring(proxy, digest)
    await proxy.put("/site/v1/synced", params=TAG, json={"digest": str(digest)})
    asked = upstream.requests.total()
    answer = await proxy.get(f"{APP}/1")
    assert answer.headers["Docker-Content-Digest"] == str(digest)
    assert upstream.requests.total() == asked
    assert (await proxy.delete("/site/v1/synced", params=TAG)).status == 204
    assert (await proxy.get(f"{APP}/1")).headers["Docker-Content-Digest"] != str(digest)
    assert (await proxy.delete("/site/v1/synced", params=TAG)).status == 404


async def test_synced_tags_are_listed_though_the_registry_does_not_know_them(
    proxy: Proxy, upstream: FaultyRegistry
) -> None:
    upstream.tag_lists = {}
    digest = upstream.add_image("team/app", "1", LAYER)
    await bring(proxy, digest)
    listed = "/v2/up/team/app/tags/list"
    assert (await proxy.get(listed)).status == 404
    for tag, is_answer in (("2", True), ("1", True), ("3", False)):
        body = {"digest": str(digest), "is_answer": is_answer}
        assert (await proxy.put("/site/v1/synced", params={**TAG, "tag": tag}, json=body)).status == 200
    assert (await (await proxy.get(listed)).json())["tags"] == ["1", "2"]
    upstream.tag_lists = {"team/app": ["1", "0"]}
    assert (await (await proxy.get(listed)).json())["tags"] == ["0", "1", "2"]
    assert (await (await proxy.get(listed, params={"n": "0"})).json())["tags"] == []
    first = await proxy.get(listed, params={"n": "1", "last": "0"})
    assert (await first.json())["tags"] == ["1"]
    second = await proxy.get(URL(first.links["next"]["url"]).relative())
    assert (await second.json())["tags"] == ["2"]
    assert "next" not in second.links
    assert (await proxy.get("/v2/up/team/other/tags/list")).status == 404


async def test_a_registry_that_pages_lists_what_it_says_itself(proxy: Proxy, upstream: FaultyRegistry) -> None:
    digest = upstream.add_image("team/app", "1", LAYER)
    await bring(proxy, digest)
    await proxy.put("/site/v1/synced", params=TAG, json={"digest": str(digest)})
    answer = await proxy.get("/v2/up/team/app/tags/list")
    assert (await answer.json())["tags"] == ["a", "b"]
    assert "next" in answer.links


async def test_synced_images_are_known_to_preheats_though_nobody_has_pulled_them(
    proxy: Proxy, upstream: FaultyRegistry
) -> None:
    pulled, synced = (upstream.add_image("team/app", tag, os.urandom(100)) for tag in ("1", "2"))
    for digest in (pulled, synced):
        await bring(proxy, digest)
    for tag, is_answer in (("1", False), ("2", False), ("3", True)):
        body = {"digest": str(synced), "is_answer": is_answer}
        await proxy.put("/site/v1/synced", params={**TAG, "tag": tag}, json=body)
    await proxy.delete("/site/v1/tags", params=TAG)
    await proxy.get(f"{APP}/1")
    known = KnownImages.model_validate_json(await (await proxy.get("/site/v1/images")).read())
    assert {image.reference.rpartition(":")[2]: image.digest for image in known.images} == {
        "1": pulled,  # which the registry tells
        "2": synced,
        "3": synced,
    }


async def test_a_tag_that_is_only_kept_is_told_as_the_registry_says_it(proxy: Proxy, upstream: FaultyRegistry) -> None:
    old = upstream.add_image("team/app", "1", LAYER)
    await proxy.get(f"{APP}/1")  # remembered for a minute
    new = upstream.add_image("team/app", "1", os.urandom(100))
    await bring(proxy, new)
    await proxy.put("/site/v1/synced", params=TAG, json={"digest": str(new), "is_answer": False})
    assert (await proxy.get(f"{APP}/1")).headers["Docker-Content-Digest"] == str(new) != str(old)
    newer = upstream.add_image("team/app", "1", os.urandom(100))
    await proxy.delete("/site/v1/tags", params={"ns": "up", "repo": "team/app", "tag": "1"})
    assert (await proxy.get(f"{APP}/1")).headers["Docker-Content-Digest"] == str(newer)


async def test_children_of_an_index_that_were_not_wanted_may_be_missing(proxy: Proxy, upstream: FaultyRegistry) -> None:
    children = [upstream.add_image("team/app", f"child{number}", os.urandom(100)) for number in range(2)]
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": str(child),
            "size": len(upstream.manifests["team/app", str(child)][1]),
        }
        for child in children
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    digest = upstream.add_manifest("team/app", "1", index, OCI_INDEX)
    await proxy.get(f"{APP}/{digest}")
    await bring(proxy, children[0])
    body = {"digest": str(digest)}
    assert (await proxy.put("/site/v1/synced", params=TAG, json=body)).status == 400
    skipped = {**body, "skipped": [str(children[1])]}
    assert (await proxy.put("/site/v1/synced", params=TAG, json=skipped)).status == 200


async def test_signatures_that_were_synced_are_found_when_the_registry_is_gone(
    proxy: Proxy, upstream: FaultyRegistry
) -> None:
    subject = upstream.add_image("team/app", "1", LAYER)
    signature = upstream.add_image("team/app", "sig", os.urandom(100))
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": str(signature), "size": 3}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    tag = f"sha256-{subject.hex}"
    digest = upstream.add_manifest("team/app", tag, index, OCI_INDEX)
    await proxy.get(f"{APP}/{digest}")
    await bring(proxy, signature)
    await proxy.put("/site/v1/synced", params={**TAG, "tag": tag}, json={"digest": str(digest)})
    upstream.statuses = [500] * 100
    answer = await proxy.get(f"/v2/up/team/app/referrers/{subject}")
    assert [each["digest"] for each in (await answer.json(content_type=None))["manifests"]] == [str(signature)]


async def test_a_look_at_a_document_keeps_nothing(proxy: Proxy, upstream: FaultyRegistry, tmp_path: Path) -> None:
    digest = upstream.add_image("team/app", "1", LAYER)
    query = {"ns": "up", "repo": "team/app"}
    manifest = await (await proxy.get(f"/site/v1/registry/documents/{digest}", params=query)).read()
    config = json.loads(manifest)["config"]["digest"]
    answer = await proxy.get(f"/site/v1/registry/documents/{config}", params={**query, "kind": "config"})
    assert json.loads(await answer.read())["os"] == "linux"
    assert not [path for path in (tmp_path / "site").rglob("*") if path.is_file() and path.name.startswith(digest.hex)]
    assert not (tmp_path / "site" / "blobs" / "sha256" / config.partition(":")[2]).exists()


async def test_a_malformed_tag_is_refused(proxy: Proxy) -> None:
    answer = await proxy.put("/site/v1/synced", params=TAG, json={"digest": "sha256:1"})
    assert answer.status == 400
    assert "malformed synced tag up/team/app:1" in (await answer.json())["error"]["message"]
    assert (await proxy.put("/site/v1/synced", params={**TAG, "tag": "-"}, json={})).status == 400
