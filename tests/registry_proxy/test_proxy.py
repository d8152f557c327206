"""The assembled proxy between real clients of loopback and an upstream with faults."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_MANIFEST
from imagedist.swarm.torrent import parse
from registry_proxy.app import create_app
from tests.support.registry import PASSWORD, USERNAME, FaultyRegistry

LAYER = os.urandom(3 << 20)
BLOB = Digest.of(LAYER)
TORRENT = f"/site/v1/torrents/{BLOB}?repo=up/team/app"
Client = TestClient[web.Request, web.Application]
StartProxy = Callable[..., Awaitable[Client]]


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.add_image("team/app", "1", LAYER)
        yield registry


class Seeder:
    """Takes notes of what the proxy tells it."""

    def __init__(self) -> None:
        self.seeds: dict[str, bytes] = {}
        self.refuses_to_let_go = False
        app = web.Application()
        app.router.add_put("/site/v1/seeds/{digest}", self._put)
        app.router.add_delete("/site/v1/seeds/{digest}", self._delete)
        self.server = TestServer(app)

    async def _put(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer site-secret"
        self.seeds[request.match_info["digest"]] = await request.read()
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        if self.refuses_to_let_go:
            return web.Response(status=500)
        self.seeds.pop(request.match_info["digest"], None)
        return web.Response(status=204)


@pytest.fixture
async def seeder() -> AsyncIterator[Seeder]:
    seeder = Seeder()
    await seeder.server.start_server()
    yield seeder
    await seeder.server.close()


@pytest.fixture
async def start(upstream: FaultyRegistry, seeder: Seeder, tmp_path: Path) -> AsyncIterator[StartProxy]:
    clients: list[Client] = []
    (tmp_path / "token").write_text("site-secret")

    async def start(settings: dict[str, Any] | None = None, **proxy: Any) -> Client:
        table = {
            "listen": "127.0.0.1:0",
            "site_blobs": str(tmp_path / "site"),
            "site_seeders": [str(seeder.server.make_url(""))],
            "site_token_file": str(tmp_path / "token"),
            "first_wave_nodes": 1,
        }
        up = {"url": upstream.url, "hosts": ["registry.local:5000"]} | (settings or {})
        config = ProxyConfig.model_validate({"proxy": table | proxy, "upstreams": {"up": up}})
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


async def get_torrent(proxy: Client, node: str = "n", wait: str = "0", more: str = "") -> tuple[int, Any]:
    response = await proxy.get(f"{TORRENT}&wait={wait}{more}", headers={"X-Imagedist-Node": node})
    is_json = response.content_type == "application/json"
    return response.status, await (response.json() if is_json else response.read())


async def test_blob_crosses_from_upstream_once_however_many_ask(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.gate = asyncio.Event()
    path = f"/v2/up/team/app/blobs/{BLOB}"
    responses = await asyncio.gather(*(proxy.get(path) for _ in range(20)))
    assert {response.headers["Content-Length"] for response in responses} == {str(len(LAYER))}
    first = await responses[0].content.readexactly(1000)
    assert first == LAYER[:1000]  # relayed while it arrives
    upstream.gate.set()
    bodies = await asyncio.gather(*(response.read() for response in responses[1:]))
    assert set(bodies) == {LAYER}
    assert first + await responses[0].read() == LAYER
    assert upstream.blob_gets == Counter({BLOB: 1})


async def test_all_three_ways_to_name_the_upstream_reach_it(start: StartProxy) -> None:
    proxy = await start(default_upstream="up")
    for path in ("team/app/manifests/1?ns=registry.local:5000", "up/team/app/manifests/1", "team/app/manifests/1"):
        response = await proxy.get(f"/v2/{path}")
        assert response.status == 200
        assert response.content_type == OCI_MANIFEST
        assert response.headers.get("OCI-Namespace") == ("registry.local:5000" if "ns=" in path else None)
    unknown = await proxy.get("/v2/team/app/manifests/1?ns=quay.io")
    assert unknown.status == 404
    assert (await unknown.json())["errors"][0]["code"] == "NAME_UNKNOWN"


async def test_late_joiner_and_ranges_are_given_at_once_what_is_there(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.gate = asyncio.Event()
    path = f"/v2/up/team/app/blobs/{BLOB}"
    first = await proxy.get(path)
    assert await first.content.readexactly(1000) == LAYER[:1000]
    late = await proxy.get(path)
    assert await late.content.readexactly(1 << 20) == LAYER[: 1 << 20]
    part = await proxy.get(path, headers={"Range": "bytes=500000-500009"})
    assert await part.content.readexactly(9) == LAYER[500_000:500_009]  # the last byte waits for the digest
    upstream.gate.set()
    assert await part.read() == LAYER[500_009:500_010]
    assert await late.read() == LAYER[1 << 20 :]
    assert upstream.blob_gets == {BLOB: 1}


async def test_client_that_goes_away_and_one_that_does_not_read_leave_the_fetch_running(
    proxy: Client, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    upstream.gate = asyncio.Event()
    path = f"/v2/up/team/app/blobs/{BLOB}"
    gone, idle = await proxy.get(path), await proxy.get(path)
    await gone.content.readexactly(1000)
    gone.close()
    upstream.gate.set()
    assert await (await proxy.get(path)).read() == LAYER
    assert (tmp_path / "site" / "blobs" / "sha256" / BLOB.hex).read_bytes() == LAYER
    assert await idle.read() == LAYER
    assert upstream.blob_gets == {BLOB: 1}


async def test_tag_is_asked_for_once_within_its_lifetime(proxy: Client, upstream: FaultyRegistry) -> None:
    for _ in range(3):
        await proxy.get("/v2/up/team/app/manifests/1")
    assert upstream.requests["GET /v2/team/app/manifests/1"] == 1


async def test_expired_tag_is_revalidated_by_head_and_refetched_when_it_moved(
    start: StartProxy, upstream: FaultyRegistry
) -> None:
    proxy = await start({"tag_ttl": "0s"})
    first = await (await proxy.get("/v2/up/team/app/manifests/1")).read()
    assert await (await proxy.get("/v2/up/team/app/manifests/1")).read() == first
    assert upstream.requests == Counter({"GET /v2/team/app/manifests/1": 1, "HEAD /v2/team/app/manifests/1": 1})
    moved = upstream.add_image("team/app", "1", b"another layer")
    response = await proxy.get("/v2/up/team/app/manifests/1")
    assert response.headers["Docker-Content-Digest"] == str(moved)


@pytest.mark.parametrize("stale_if_error", [True, False])
async def test_failing_upstream_leaves_what_the_site_has(
    start: StartProxy, upstream: FaultyRegistry, stale_if_error: bool
) -> None:
    proxy = await start({"tag_ttl": "0s", "stale_if_error": stale_if_error})
    manifest = await proxy.get("/v2/up/team/app/manifests/1")
    await (await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")).read()
    upstream.statuses = [400] * 100
    by_tag = await proxy.get("/v2/up/team/app/manifests/1")
    if stale_if_error:
        assert by_tag.status == 200
        assert "up/team/app:1 is stale" in by_tag.headers["Warning"]
    else:
        assert by_tag.status == 502
    digest = manifest.headers["Docker-Content-Digest"]
    assert (await proxy.get(f"/v2/up/team/app/manifests/{digest}")).status == 200
    assert await (await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")).read() == LAYER


async def test_restarted_proxy_serves_what_it_had(start: StartProxy, upstream: FaultyRegistry) -> None:
    first = await start()
    await first.get("/v2/up/team/app/manifests/1")
    await (await first.get(f"/v2/up/team/app/blobs/{BLOB}")).read()
    await first.close()
    upstream.statuses = [400] * 100
    second = await start()
    assert (await second.get("/v2/up/team/app/manifests/1")).status == 200
    assert await (await second.get(f"/v2/up/team/app/blobs/{BLOB}")).read() == LAYER
    assert len(upstream.statuses) == 100


async def test_unknown_tag_and_blob_are_404_and_remembered_briefly(proxy: Client, upstream: FaultyRegistry) -> None:
    missing = Digest.of(b"missing")
    for path, code in (("manifests/nope", "MANIFEST_UNKNOWN"), (f"blobs/{missing}", "BLOB_UNKNOWN")):
        for _ in range(3):
            response = await proxy.get(f"/v2/up/team/app/{path}")
            assert response.status == 404
            assert (await response.json())["errors"][0]["code"] == code
        assert upstream.requests[f"GET /v2/team/app/{path}"] == 1


async def test_wrong_bytes_are_never_finished_nor_kept(proxy: Client, upstream: FaultyRegistry, tmp_path: Path) -> None:
    upstream.corrupt = True
    with contextlib.suppress(aiohttp.ClientError):
        response = await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")
        await response.read()
        assert response.status == 502, "the body was finished"  # all of it came before the answer began
    assert [path for path in (tmp_path / "site").glob("*/**/*") if path.is_file()] == []
    again = await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")
    assert again.status == 502
    assert "wrong bytes" in await again.text()
    assert upstream.blob_gets == Counter({BLOB: 1})  # who sent wrong bytes is not asked again at once


async def test_truncated_body_is_resumed_unseen_by_the_client(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.cuts = [1 << 20, 100_000]
    assert await (await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")).read() == LAYER


async def test_fetch_that_fails_for_one_repository_goes_on_in_another_that_was_asked_for(
    proxy: Client, upstream: FaultyRegistry
) -> None:
    upstream.cuts = [1 << 20]
    upstream.hidden_from = "team/poor"
    poor = asyncio.create_task(proxy.get(f"/v2/up/team/poor/blobs/{BLOB}"))
    await upstream.asked.wait()
    rich = asyncio.create_task(proxy.get(f"/v2/up/team/app/blobs/{BLOB}"))
    assert (await proxy.head(f"/v2/up/team/app/blobs/{BLOB}")).status == 200  # the request before it has been taken
    upstream.answer.set()
    assert await (await rich).read() == LAYER
    assert (await poor).status == 200


async def test_range_of_a_blob_that_is_not_here_starts_one_arrival(proxy: Client, upstream: FaultyRegistry) -> None:
    path = f"/v2/up/team/app/blobs/{BLOB}"
    ranges = [(0, 99), (500, 599), (len(LAYER) - 100, len(LAYER) - 1)]
    responses = [await proxy.get(path, headers={"Range": f"bytes={a}-{b}"}) for a, b in ranges]
    assert [await response.read() for response in responses] == [LAYER[a : b + 1] for a, b in ranges]
    assert upstream.blob_gets == Counter({BLOB: 1})


async def test_head_of_a_blob_fetches_nothing(proxy: Client, upstream: FaultyRegistry) -> None:
    response = await proxy.head(f"/v2/up/team/app/blobs/{BLOB}")
    assert response.headers["Content-Length"] == str(len(LAYER))
    assert upstream.blob_gets == Counter()


async def test_next_page_of_tags_points_at_the_mirror(proxy: Client) -> None:
    response = await proxy.get("/v2/team/app/tags/list?n=2&ns=registry.local:5000")
    assert response.headers["Link"] == ('</v2/team/app/tags/list?last=b&n=2&ns=registry.local%3A5000>; rel="next"')


async def test_refused_login_is_not_a_challenge(start: StartProxy, upstream: FaultyRegistry) -> None:
    upstream.auth = "bearer"
    response = await (await start()).get("/v2/up/team/app/manifests/1")
    assert response.status == 403
    assert "check the credentials" in (await response.json())["errors"][0]["message"]


async def test_first_node_streams_the_second_waits_and_gets_the_torrent(
    proxy: Client, upstream: FaultyRegistry, seeder: Seeder
) -> None:
    upstream.gate = asyncio.Event()
    status, answer = await get_torrent(proxy, "first")
    assert (status, answer["action"], answer["size"], answer["swarm"]) == (202, "stream", len(LAYER), True)
    status, answer = await get_torrent(proxy, "second")
    assert (status, answer["action"]) == (202, "wait")
    waiting = asyncio.create_task(get_torrent(proxy, "second", wait="30"))
    await get_torrent(proxy, "third")  # the waiting request has reached the proxy before this one
    upstream.gate.set()
    status, torrent = await waiting
    assert status == 200
    assert parse(torrent).digest == BLOB
    assert seeder.seeds == {str(BLOB): torrent}
    assert await get_torrent(proxy, "first") == (200, torrent)
    assert upstream.blob_gets == Counter({BLOB: 1})


async def test_a_node_that_streams_is_held_until_the_torrent_exists(
    start: StartProxy, upstream: FaultyRegistry
) -> None:
    proxy = await start(first_wave_wait="0s")
    upstream.gate = asyncio.Event()
    assert (await get_torrent(proxy, "first"))[1]["action"] == "stream"
    waiting = asyncio.create_task(get_torrent(proxy, "first", wait="30", more="&streaming=1"))
    assert (await get_torrent(proxy, "second", wait="30"))[0] == 202  # the waiting request has come before this one
    assert not waiting.done()
    upstream.gate.set()
    assert (await waiting)[0] == 200


async def test_patience_ends_and_the_node_is_told_to_stream(start: StartProxy, upstream: FaultyRegistry) -> None:
    proxy = await start(first_wave_wait="0s")
    upstream.gate = asyncio.Event()
    answers = [await get_torrent(proxy, node, wait="5") for node in ("first", "second")]
    assert [answer["action"] for _, answer in answers] == ["stream", "stream"]
    upstream.gate.set()


@pytest.mark.parametrize("is_private", [False, True])
async def test_small_and_private_blobs_stay_out_of_the_swarm(
    start: StartProxy, upstream: FaultyRegistry, seeder: Seeder, tmp_path: Path, is_private: bool
) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    login = {"username": USERNAME, "password_file": str(tmp_path / "password")}
    proxy = await start(login if is_private else None, swarm_min_size="1MiB" if is_private else "4MiB")
    for _ in range(2):
        status, answer = await get_torrent(proxy)
        assert (status, answer["action"], answer["swarm"]) == (202, "stream", False)
        await (await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")).read()
    assert seeder.seeds == {}


@pytest.mark.parametrize("inline", ["1000000", "1", "-5", "x", "9" * 30])
async def test_a_small_blob_is_the_answer_itself_to_who_takes_it_so(
    start: StartProxy, upstream: FaultyRegistry, inline: str
) -> None:
    content = b"small" * 1000
    digest = upstream.add_blob(content)
    proxy = await start()
    path = f"/site/v1/torrents/{digest}?repo=up/team/app&inline={inline}"
    await (await proxy.get(f"/v2/up/team/app/blobs/{digest}")).read()
    response = await proxy.get(path)
    if inline == "1000000":
        assert (response.status, response.content_type) == (200, "application/octet-stream")
        assert await response.read() == content
    else:
        assert (response.status, (await response.json())["swarm"]) == (202, False)


async def test_torrent_of_what_nobody_has_is_404(proxy: Client) -> None:
    response = await proxy.get(f"/site/v1/torrents/{Digest.of(b'missing')}?repo=up/team/app")
    assert response.status == 404
    assert "has no" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("query", ["repo=../x", "repo=", "repo=up/x&wait=-1", "repo=up/x&wait=nan", "repo=up/x&wait=x"])
async def test_malformed_torrent_requests_are_refused(proxy: Client, query: str) -> None:
    assert (await proxy.get(f"/site/v1/torrents/{BLOB}?{query}")).status == 400


async def test_order_to_fetch_needs_the_site_token(proxy: Client, upstream: FaultyRegistry) -> None:
    path, order = f"/site/v1/blobs/{BLOB}/fetch", {"ns": "registry.local:5000", "repo": "team/app"}
    assert (await proxy.post(path, json=order)).status == 401
    assert upstream.blob_gets == Counter()
    token = {"Authorization": "Bearer site-secret"}
    assert (await proxy.post(path, json=order, headers=token)).status in (200, 202)
    assert (await proxy.post(path, json={"repo": 5}, headers=token)).status == 400
    await (await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")).read()
    response = await proxy.post(path, json=order, headers=token)
    here = {"format": 1, "size": len(LAYER), "present": len(LAYER), "here": True}
    assert (response.status, await response.json()) == (200, here)


@pytest.mark.parametrize("refuses", [False, True])
async def test_blob_is_evicted_only_after_the_seeder_let_go(
    start: StartProxy, upstream: FaultyRegistry, seeder: Seeder, tmp_path: Path, refuses: bool
) -> None:
    proxy = await start(site_blobs_quota="4MiB")
    await (await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")).read()
    assert (await get_torrent(proxy, wait="5"))[0] == 200
    seeder.refuses_to_let_go = refuses
    other = os.urandom(2 << 20)
    response = await proxy.get(f"/v2/up/team/app/blobs/{upstream.add_blob(other)}")
    assert (response.status, await response.read()) == (200, other)  # passed on, when there is no room to store it
    kept = tmp_path / "site" / "blobs" / "sha256" / BLOB.hex
    torrent = tmp_path / "site" / "torrents" / f"{BLOB.hex}.torrent"
    assert (kept.exists(), torrent.exists(), str(BLOB) in seeder.seeds) == (refuses, refuses, refuses)


async def test_wrong_bytes_that_a_killed_process_left_are_dropped_and_the_next_asker_gets_the_blob(
    proxy: Client, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    (tmp_path / "site" / "partial" / f"sha256-{BLOB.hex}").write_bytes(b"rotten" * 1000)
    with contextlib.suppress(aiohttp.ClientError):
        response = await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")
        await response.read()
        assert response.status == 502, "the body was finished"
    again = await proxy.get(f"/v2/up/team/app/blobs/{BLOB}")
    assert (again.status, await again.read()) == (200, LAYER)


async def test_without_room_everyone_is_served_nothing_stays_and_nobody_waits_for_a_torrent(
    start: StartProxy, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    proxy = await start(site_blobs_quota="1MiB")
    path = f"/v2/up/team/app/blobs/{BLOB}"
    bodies = await asyncio.gather(*(proxy.get(path) for _ in range(10)))
    assert await asyncio.gather(*(response.read() for response in bodies)) == [LAYER] * 10
    assert upstream.blob_gets == Counter({BLOB: 1})
    part = await proxy.get(path, headers={"Range": "bytes=-1000"})
    assert (part.status, await part.read()) == (206, LAYER[-1000:])
    status, told = await get_torrent(proxy)
    assert (status, told["action"], told["swarm"]) == (202, "stream", False)
    assert not list((tmp_path / "site" / "blobs").rglob(BLOB.hex))
    assert not list((tmp_path / "site" / "partial").iterdir())


async def test_upstreams_are_listed_for_nodes(proxy: Client) -> None:
    listed = await (await proxy.get("/site/v1/upstreams")).json()
    assert listed == {
        "format": 1,
        "upstreams": {"up": ["up", "registry.local:5000"]},
        "any": False,
        "default": None,
    }


async def test_health_and_push(proxy: Client) -> None:
    assert (await proxy.get("/livez")).status == (await proxy.get("/readyz")).status == 200
    assert "imagedist_store_bytes" in await (await proxy.get("/metrics")).text()
    assert (await proxy.put("/v2/up/team/app/manifests/1")).status == 405


@pytest.mark.parametrize("mistake", ["port in use", "unknown key", "no directory"])
def test_start_fails_in_one_readable_line(tmp_path: Path, mistake: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if mistake == "port in use" else 0
        (tmp_path / "file").touch()
        blobs = tmp_path / ("file" if mistake == "no directory" else "site")
        key = 'lisen = "x"\n' if mistake == "unknown key" else ""
        config = tmp_path / "proxy.toml"
        config.write_text(
            f'[proxy]\nlisten = "127.0.0.1:{port}"\n{key}site_blobs = "{blobs}"\n[upstreams.up]\nurl = "http://127.0.0.1:9"\n'
        )
        done = subprocess.run(
            [sys.executable, "-m", "registry_proxy", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    last = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert last.startswith("imagedist-proxy: ")
    expected = {"port in use": f"127.0.0.1:{port}", "unknown key": "proxy.lisen", "no directory": str(blobs)}[mistake]
    assert expected in last
    assert done.returncode == (1 if mistake == "no directory" else 2)
