"""Pins, the quota's queue of manifests and tags, and what operators see, at a whole proxy."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX
from registry_proxy.app import create_app
from tests.support.registry import FaultyRegistry

LAYER = os.urandom(300_000)
BLOB = Digest.of(LAYER)
IMAGE = "/v2/up/team/app"
Client = TestClient[web.Request, web.Application]
StartProxy = Callable[..., Awaitable[Client]]


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.add_image("team/app", "1", LAYER)
        yield registry


@pytest.fixture
async def start(upstream: FaultyRegistry, tmp_path: Path) -> AsyncIterator[StartProxy]:
    clients: list[Client] = []

    async def start(settings: dict[str, Any] | None = None, **proxy: Any) -> Client:
        table = {"listen": "127.0.0.1:0", "site_blobs": str(tmp_path / "site"), "scrub_interval": "0s"}
        up = {"url": upstream.url, "hosts": ["registry.local:5000"]} | (settings or {})
        config = ProxyConfig.model_validate({"proxy": table | proxy, "upstreams": {"up": up}})
        client: Client = TestClient(TestServer(create_app(config)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


async def pull(proxy: Client, upstream: FaultyRegistry, content: bytes) -> int:
    response = await proxy.get(f"{IMAGE}/blobs/{upstream.add_blob(content)}")
    assert await response.read() == content
    return response.status


async def call(proxy: Client, method: str, path: str, expected: int = 200, **query: str) -> Any:
    response = await proxy.request(method, f"/site/v1/{path}", params=query)
    assert response.status == expected, await response.text()
    return await response.json()


def blobs(tmp_path: Path) -> set[str]:
    return set(os.listdir(tmp_path / "site" / "blobs" / "sha256"))


async def test_pinned_image_outlives_the_quota_and_the_process(
    start: StartProxy, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    proxy = await start(site_blobs_quota="700kB")
    await (await proxy.get(f"{IMAGE}/blobs/{BLOB}")).read()
    pinned = await call(proxy, "PUT", "pins", repo="up/team/app", reference="1", reason="base image")
    assert (pinned["name"], pinned["owner"], pinned["reason"]) == ("up/team/app:1", "operator", "base image")
    assert (pinned["blobs"], pinned["missing"]) == (2, 1)  # its config was not pulled yet
    await proxy.close()
    proxy = await start(site_blobs_quota="700kB")
    for n in range(4):
        await pull(proxy, upstream, bytes([n]) * 300_000)
    assert BLOB.hex in blobs(tmp_path)
    assert len(blobs(tmp_path)) == 2
    assert (await call(proxy, "GET", "pins"))["pins"] == [pinned]
    await call(proxy, "DELETE", "pins", repo="up/team/app", reference="1")
    for n in range(4, 8):
        await pull(proxy, upstream, bytes([n]) * 300_000)
    assert BLOB.hex not in blobs(tmp_path)


async def test_pin_reaches_through_an_index_what_is_here_and_what_comes_later(
    start: StartProxy, upstream: FaultyRegistry
) -> None:
    child = upstream.add_image("team/app", "amd64", LAYER)
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"digest": str(child), "size": 1}]}
    body["manifests"] = [*body["manifests"], {"digest": "nonsense"}, 7]  # type: ignore[misc]
    upstream.add_manifest("team/app", "multi", json.dumps(body).encode(), OCI_INDEX)
    proxy = await start()
    pinned = await call(proxy, "PUT", "pins", ns="registry.local:5000", repo="team/app", reference="multi")
    assert (pinned["name"], pinned["blobs"], pinned["missing"]) == ("up/team/app:multi", 1, 1)
    await proxy.get(f"{IMAGE}/manifests/{child}")
    assert [(pin["blobs"], pin["missing"]) for pin in (await call(proxy, "GET", "pins"))["pins"]] == [(2, 2)]
    await (await proxy.get(f"{IMAGE}/blobs/{BLOB}")).read()
    assert [(pin["blobs"], pin["missing"]) for pin in (await call(proxy, "GET", "pins"))["pins"]] == [(3, 1)]


async def test_pins_have_owners_and_bare_digests_need_no_repository(start: StartProxy) -> None:
    proxy = await start()
    for owner in ("operator", "preheat/7"):
        await call(proxy, "PUT", "pins", reference=str(BLOB), owner=owner)
    await call(proxy, "DELETE", "pins", reference=str(BLOB), owner="preheat/7")
    listed = (await call(proxy, "GET", "pins", owner="operator"))["pins"]
    assert [(pin["name"], pin["owner"]) for pin in listed] == [(str(BLOB), "operator")]
    refused = await call(proxy, "DELETE", "pins", 404, reference=str(BLOB), owner="preheat/7")
    assert "preheat/7 has no pin" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ({"reference": "1"}, 400, "cannot pin tag 1 without its repository"),
        ({"repo": "up/team/app", "reference": "a b"}, 400, "expected a tag or a digest"),
        ({"repo": "up/team/app", "reference": "sha256:ab"}, 400, "invalid digest"),
        ({"repo": "UP", "reference": "1"}, 400, "invalid repo"),
        ({"repo": "up/team/app", "reference": "1", "owner": "../x y"}, 400, "invalid owner"),
        ({"repo": "up/team/app", "reference": "nope"}, 404, "nope"),
        ({"ns": "quay.io", "repo": "a", "reference": "1"}, 404, "no upstream for ns=quay.io"),
    ],
)
async def test_wrong_pins_say_what_was_expected(
    start: StartProxy, query: dict[str, str], status: int, says: str
) -> None:
    proxy = await start()
    assert says in (await call(proxy, "PUT", "pins", status, **query))["error"]["message"]
    assert (await call(proxy, "GET", "pins"))["pins"] == []


async def test_manifests_and_tags_queue_up_with_the_blobs(
    start: StartProxy, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    rules = {"tags": [{"tags": ["kept"], "policy": "pin"}]}
    proxy = await start(rules, site_blobs_quota="400kB")
    digests = {tag: upstream.add_image("team/app", tag, tag.encode()) for tag in ("old", "used", "kept", "pinned")}
    for tag in digests:
        assert (await proxy.get(f"{IMAGE}/manifests/{tag}")).status == 200
    await call(proxy, "PUT", "pins", repo="up/team/app", reference="pinned")
    store = tmp_path / "site"
    long_ago = time.time() - 1e6
    for tag, digest in digests.items():
        record = store / "tags/up/team/app/_tags" / f"{tag}.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "checked_at": long_ago}))
        os.utime(store / "manifests/sha256" / digest.hex, (long_ago, long_ago))
    assert (await proxy.get(f"{IMAGE}/manifests/{digests['used']}")).status == 200
    for n in range(3):
        await pull(proxy, upstream, bytes([n]) * 390_000)
    here = {tag for tag, digest in digests.items() if (store / "manifests/sha256" / digest.hex).exists()}
    assert here == {"used", "kept", "pinned"}
    assert not list((store / "manifests/sha256").glob(f"{digests['old'].hex}*"))
    assert {path.stem for path in (store / "tags").rglob("*.json")} == {"used", "kept", "pinned"}


async def test_store_says_what_it_holds_to_the_byte(start: StartProxy, tmp_path: Path) -> None:
    proxy = await start(site_blobs_quota="10MB", site_blobs_headroom="1MB")
    await proxy.get(f"{IMAGE}/manifests/1")
    await (await proxy.get(f"{IMAGE}/blobs/{BLOB}")).read()
    await call(proxy, "PUT", "pins", repo="up/team/app", reference="1")
    status = await call(proxy, "GET", "store")
    folders = status["folders"]
    for name in ("blobs", "manifests", "tags", "pins"):
        files = [path for path in (tmp_path / "site" / name).rglob("*") if path.is_file()]
        assert folders[name] == {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
    assert status["used_bytes"] == sum(folder["bytes"] for folder in folders.values())
    assert (status["quota_bytes"], status["headroom_bytes"]) == (10_000_000, 1_000_000)
    assert (status["pins"], status["pinned_blobs"], status["missing_blobs"]) == (1, 2, 1)
    assert status["scrub"]["is_running"] is False


async def test_rotten_blob_that_is_pinned_is_fetched_again_at_once(
    start: StartProxy, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    proxy = await start()
    await (await proxy.get(f"{IMAGE}/blobs/{BLOB}")).read()
    await call(proxy, "PUT", "pins", repo="up/team/app", reference="1")
    path = tmp_path / "site" / "blobs" / "sha256" / BLOB.hex
    rotten = bytearray(LAYER)
    rotten[1000] ^= 1
    path.write_bytes(rotten)
    assert (await call(proxy, "POST", "scrub", 202))["is_wanted"] in (True, False)
    scrubbed: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while not (scrubbed.get("finished_at") and path.exists()):
            scrubbed = await call(proxy, "GET", "scrub")
    assert (scrubbed["rotten_blobs"], scrubbed["checked_blobs"], upstream.blob_gets[BLOB]) == (1, 1, 2)
    assert path.read_bytes() == LAYER


async def test_torrents_without_their_blobs_go_at_the_start(start: StartProxy, tmp_path: Path) -> None:
    torrents = tmp_path / "site" / "torrents"
    await start()
    torrents.mkdir(exist_ok=True)
    (torrents / f"{BLOB.hex}.torrent").write_bytes(b"left by a killed process")
    proxy = await start()
    assert not list(torrents.glob("*.torrent"))
    assert (await call(proxy, "GET", "store"))["used_bytes"] == 0


async def test_torrents_that_an_earlier_version_cut_otherwise_are_made_anew(start: StartProxy, tmp_path: Path) -> None:
    torrents = tmp_path / "site" / "torrents"
    proxy = await start(swarm_min_size="100kB")
    query = {"ns": "registry.local:5000", "repo": "team/app", "wait": "20"}
    made = []
    for _ in range(2):
        async with asyncio.timeout(60):
            while (answer := await proxy.get(f"/site/v1/torrents/{BLOB}", params=query)).status != 200:
                await answer.read()
        made.append(await answer.read())
        (path,) = torrents.glob("*.torrent")
        written = path.stat()
        proxy = await start(swarm_min_size="100kB")
        assert path.stat().st_ino == written.st_ino, "one of today's pieces stays"
        path.write_bytes(made[-1].replace(b"12:piece lengthi65536e", b"12:piece lengthi262144e"))
        proxy = await start(swarm_min_size="100kB")
        assert not path.exists()
    assert made[0] == made[1]


@pytest.mark.root
async def test_disk_of_eight_megabytes_serves_whatever_is_asked_for(
    start: StartProxy, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path / "site"))
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    try:
        proxy = await start()
        for n in range(6):
            assert await pull(proxy, upstream, bytes([n]) * (3 << 20)) == 200
        assert 1 <= len(blobs(tmp_path)) <= 2
        larger = os.urandom(12 << 20)
        path = f"{IMAGE}/blobs/{upstream.add_blob(larger)}"
        answers = await asyncio.gather(*(proxy.get(path) for _ in range(4)))
        assert await asyncio.gather(*(answer.read() for answer in answers)) == [larger] * 4
        assert (await proxy.get(f"{IMAGE}/manifests/1")).status == 200
        assert not list((tmp_path / "site" / "partial").iterdir())
        await proxy.close()
    finally:
        assert await (await asyncio.create_subprocess_exec("umount", "--lazy", str(tmp_path / "site"))).wait() == 0


@pytest.mark.e2e("skopeo")
async def test_a_real_client_gets_an_image_larger_than_the_disk(
    start: StartProxy, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    layer = os.urandom(20 << 20)
    digest = upstream.add_image("team/large", "1", layer)
    (tmp_path / "site").mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path / "site"))
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    try:
        proxy = await start()
        source = f"docker://{proxy.host}:{proxy.port}/up/team/large:1"
        copy = ("skopeo", "copy", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy")
        skopeo = await asyncio.create_subprocess_exec(*copy, stdout=asyncio.subprocess.DEVNULL)
        assert await skopeo.wait() == 0
        assert (tmp_path / "copy" / Digest.of(layer).hex).read_bytes() == layer
        assert Digest.of((tmp_path / "copy" / "manifest.json").read_bytes()) == digest
        assert upstream.blob_gets[Digest.of(layer)] == 1
        await proxy.close()
    finally:
        assert await (await asyncio.create_subprocess_exec("umount", "--lazy", str(tmp_path / "site"))).wait() == 0


async def imagedist(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imagedist", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_operators_pin_list_look_and_scrub_by_command(start: StartProxy) -> None:
    proxy = await start(site_blobs_quota="10MB")
    at = ("--proxy", str(proxy.make_url("")))
    image = "registry.local:5000/team/app:1"
    code, out, _ = await imagedist("pin", image, "--reason", "base image", *at)
    assert (code, out.startswith("pinned up/team/app:1 (sha256:")) == (0, True)
    assert "2 not here yet" in out
    pins, pins_json, site, site_json, scrub, wrong = await asyncio.gather(
        imagedist("pins", *at),
        imagedist("pins", "--json", *at),
        imagedist("site", *at),
        imagedist("site", "--json", *at),
        imagedist("scrub", "--now", *at),
        imagedist("pin", "sha256:12", *at),
    )
    assert [answer[0] for answer in (pins, pins_json, site, site_json, scrub, wrong)] == [0, 0, 0, 0, 0, 2]
    assert "up/team/app:1" in pins[1]
    assert "base image" in pins[1]
    assert json.loads(pins_json[1])["pins"][0]["owner"] == "operator"
    assert "of 10.0 MB" in site[1]
    assert "by 1 pins, 2 not here" in site[1]
    assert json.loads(site_json[1])["quota_bytes"] == 10_000_000
    assert "invalid digest" in wrong[2]
    assert (await imagedist("unpin", image, *at))[:1] == (0,)
    code, _, err = await imagedist("unpin", image, *at)
    assert (code, "operator has no pin up/team/app:1" in err, len(err.splitlines())) == (1, True, 1)
