"""Upstreams whose users bring their own credentials: what is cached is given to those whom upstream lets read it."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.oci.auth import Credentials, parse_basic
from imagedist.oci.digest import Digest
from registry_proxy.app import create_app
from tests.support.registry import PASSWORD, FaultyRegistry, basic

LAYER = os.urandom(2 << 20)
BLOB = Digest.of(LAYER)
SECRET = {"Authorization": "Bearer site-secret"}
Client = TestClient[web.Request, web.Application]
Start = Callable[..., Awaitable[Client]]


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Any


@pytest.fixture(params=["basic", "bearer"])
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[FaultyRegistry]:
    """``team/app`` is for alice and carol, ``team/bobs`` for bob, everything else is open."""
    async with FaultyRegistry() as registry:
        registry.auth = request.param
        registry.readers = {"team/app": {"alice", "carol"}, "team/bobs": {"bob"}}
        for repository in ("team/app", "open/app"):
            registry.add_image(repository, "1", LAYER)
        yield registry


@pytest.fixture
async def start(upstream: FaultyRegistry, tmp_path: Path) -> AsyncIterator[Start]:
    clients: list[Client] = []
    (tmp_path / "token").write_text("site-secret")

    async def start(**settings: Any) -> Client:
        table = {
            "listen": "127.0.0.1:0",
            "site_blobs": str(tmp_path / "site"),
            "site_token_file": str(tmp_path / "token"),
            "swarm_min_size": 1,
        }
        up = {"url": upstream.url, "mode": "passthrough", "tag_ttl": "1h"} | settings
        config = ProxyConfig.model_validate({"proxy": table, "upstreams": {"up": up}})
        client: Client = TestClient(TestServer(create_app(config)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def proxy(start: Start) -> Client:
    return await start()


async def ask(proxy: Client, path: str, user: str | None = None, method: str = "GET", **headers: str) -> Answer:
    if user is not None:
        headers["Authorization"] = basic(user)
    response = await proxy.request(method, path, headers=headers)
    return Answer(response.status, await response.read(), response.headers)


def manifest(repository: str = "team/app", reference: str = "1") -> str:
    return f"/v2/up/{repository}/manifests/{reference}"


def blob(repository: str = "team/app", digest: Digest = BLOB) -> str:
    return f"/v2/up/{repository}/blobs/{digest}"


def torrent(repository: str = "team/app") -> str:
    return f"/site/v1/torrents/{BLOB}?repo=up/{repository}&wait=5"


async def pulled(proxy: Client, user: str | None, repository: str = "team/app") -> str:
    """Has a user pull everything; the manifest's digest."""
    got = await ask(proxy, manifest(repository), user)
    assert got.status == 200
    assert (await ask(proxy, blob(repository), user)).body == LAYER
    return str(got.headers["Docker-Content-Digest"])


async def test_what_is_cached_is_given_to_nobody_whom_upstream_does_not_let_read_it(
    proxy: Client, upstream: FaultyRegistry
) -> None:
    digest = await pulled(proxy, "alice")
    paths = [manifest(), manifest(reference=digest), blob(), torrent(), "/v2/up/team/app/tags/list"]
    for path in paths:
        for stranger in (None, "bob"):
            answer = await ask(proxy, path, stranger)
            assert answer.status == 401, path
            assert LAYER[:100] not in answer.body
        wrong = await ask(proxy, path, Authorization="Basic " + base64.b64encode(b"alice:guess").decode())
        assert wrong.status == 401
        assert (await ask(proxy, path, "carol")).status in (200, 202)
    for method in ("HEAD", "GET"):
        assert (await ask(proxy, blob(), "bob", method, Range="bytes=0-9")).status == 401
    assert upstream.blob_gets == {BLOB: 1}


async def test_stranger_is_told_the_same_of_what_is_cached_and_of_what_is_not(
    proxy: Client, upstream: FaultyRegistry
) -> None:
    other = upstream.add_blob(b"other")
    await pulled(proxy, "alice")
    for user in (None, "bob"):
        answers = [await ask(proxy, path, user, "HEAD") for path in (blob(), blob(digest=other))]
        tags = [await ask(proxy, manifest(reference=tag), user, "HEAD") for tag in ("1", "2")]
        assert {answer.status for answer in answers + tags} == {401}
    assert (await ask(proxy, manifest(reference="2"), "alice")).status == 404


async def test_grant_holds_for_its_time_without_asking_upstream_and_not_longer(
    start: Start, upstream: FaultyRegistry
) -> None:
    proxy = await start(grant_ttl="1h")
    digest = await pulled(proxy, "alice")
    upstream.requests.clear()
    for path in (manifest(), manifest(reference=digest), blob()):
        assert (await ask(proxy, path, "alice")).status == 200
    assert sum(upstream.requests.values()) == 0
    brief = await start(grant_ttl="0s")
    assert (await ask(brief, manifest(), "alice")).status == 200
    upstream.readers["team/app"].remove("alice")
    upstream.requests.clear()
    for path in (manifest(), manifest(reference=digest), blob(), torrent()):
        assert (await ask(brief, path, "alice")).status == 401
        assert (await ask(brief, path, "carol")).status in (200, 202)
    assert upstream.blob_gets == {BLOB: 1}


async def test_blob_is_given_only_in_a_repository_that_has_it(proxy: Client, upstream: FaultyRegistry) -> None:
    upstream.holders[BLOB] = {"team/app", "team/mounted"}
    upstream.readers |= {"team/mounted": {"alice"}, "team/other": {"alice"}}
    await pulled(proxy, "alice")
    assert (await ask(proxy, blob("team/other"), "alice")).status == 404
    assert (await ask(proxy, blob("team/bobs"), "bob")).status == 404
    for _ in range(3):
        assert (await ask(proxy, blob("team/mounted"), "alice")).body == LAYER
    assert upstream.requests[f"HEAD /v2/team/mounted/blobs/{BLOB}"] >= 1
    assert upstream.blob_gets == {BLOB: 1}
    assert (await ask(proxy, blob("team/mounted"), "carol")).status == 401


async def test_repository_that_upstream_gives_to_anonymous_askers_is_open(
    proxy: Client, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    digest = await pulled(proxy, "alice", "open/app")
    assert not list((tmp_path / "site" / "private").iterdir())
    for user in (None, "bob"):
        for path in (manifest("open/app"), manifest("open/app", digest), blob("open/app"), torrent("open/app")):
            assert (await ask(proxy, path, user)).status == 200
    assert (await ask(proxy, torrent("open/app"))).headers["Content-Type"] == "application/x-bittorrent"
    assert upstream.blob_gets == {BLOB: 1}


async def test_blob_that_becomes_known_in_an_open_repository_may_swarm(proxy: Client) -> None:
    await pulled(proxy, "alice")
    private = await ask(proxy, torrent(), "alice")
    assert private.status == 202
    assert b'"swarm": false, "private": true' in private.body
    await pulled(proxy, None, "open/app")
    assert (await ask(proxy, torrent(), "alice")).status == 200


async def test_private_blob_swarms_when_the_operator_says_so_but_is_still_asked_for_with_a_grant(start: Start) -> None:
    proxy = await start(private_in_swarm=True)
    await pulled(proxy, "alice")
    answer = await ask(proxy, torrent(), "alice")
    assert (answer.status, answer.headers["X-Imagedist-Private"]) == (200, "1")
    for path in (torrent(), blob()):
        assert (await ask(proxy, path, "bob")).status == 401


async def test_crowd_of_users_is_served_by_one_fetch_and_strangers_among_them_get_nothing(
    proxy: Client, upstream: FaultyRegistry
) -> None:
    upstream.gate = asyncio.Event()
    users = ["alice", "bob", "carol", None] * 5
    crowd = [asyncio.create_task(ask(proxy, blob(), user)) for user in users]
    await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)  # strangers need not wait for the blob
    upstream.gate.set()
    answers = await asyncio.gather(*crowd)
    for user, answer in zip(users, answers, strict=True):
        assert (answer.status, answer.body == LAYER) == ((200, True) if user in ("alice", "carol") else (401, False))
    assert upstream.blob_gets == {BLOB: 1}


async def test_failing_upstream_leaves_those_served_who_were_allowed_lately_and_no_others(
    start: Start, upstream: FaultyRegistry
) -> None:
    proxy = await start(grant_ttl="0s", tag_ttl="0s")
    digest = await pulled(proxy, "alice")
    upstream.statuses = [400] * 1000
    for path in (manifest(), manifest(reference=digest), blob()):
        assert (await ask(proxy, path, "alice")).status == 200
    assert "stale" in (await ask(proxy, manifest(), "alice")).headers["Warning"]
    for path in (manifest(), manifest(reference=digest), blob()):
        for stranger in (None, "bob", "carol"):
            assert (await ask(proxy, path, stranger)).status == 502
    strict = await start(grant_ttl="0s", tag_ttl="0s", grant_if_error="0s")
    assert (await ask(strict, blob(), "alice")).status == 502


async def test_purge_takes_the_grants_of_the_repository_along(start: Start, upstream: FaultyRegistry) -> None:
    proxy = await start(grant_ttl="1h")
    await pulled(proxy, "alice")
    upstream.readers["team/app"].remove("alice")
    assert (await ask(proxy, blob(), "alice")).status == 200
    await proxy.delete("/site/v1/tags?repo=up/team/app", headers=SECRET)
    assert (await ask(proxy, blob(), "alice")).status == 401


async def test_pinned_tag_is_given_to_who_may_read_it_and_stays_pinned(start: Start, upstream: FaultyRegistry) -> None:
    proxy = await start(tags=[{"policy": "pin"}], grant_ttl="0s")
    pinned = await pulled(proxy, "alice")
    upstream.add_image("team/app", "1", b"moved")
    for user in ("carol", "alice"):
        assert (await ask(proxy, manifest(), user)).headers["Docker-Content-Digest"] == pinned
    assert (await ask(proxy, manifest(), "bob")).status == 401


async def test_client_that_is_challenged_logs_in_as_docker_does(proxy: Client) -> None:
    refused = await ask(proxy, "/v2/")
    assert refused.status == 401
    challenge = refused.headers["WWW-Authenticate"]
    realm = str(proxy.make_url("/token"))
    assert challenge == f'Bearer realm="{realm}",service="imagedist"'
    scoped = (await ask(proxy, manifest())).headers["WWW-Authenticate"]
    assert scoped == f'{challenge},scope="repository:up/team/app:pull"'

    for user, status in (("alice", 200), ("bob", 401), (None, 401)):
        token = (await proxy.get("/token?service=imagedist", headers=login(user))).json
        bearer = {"Authorization": f"Bearer {(await token())['token']}"}
        assert (await ask(proxy, "/v2/", **bearer)).status == 200
        answer = await ask(proxy, manifest(), **bearer)
        assert answer.status == status
        if status == 401:
            assert ('error="invalid_token"' in answer.headers["WWW-Authenticate"]) is (user is not None)
    # podman without a login sends an empty one
    assert (await ask(proxy, manifest("open/app"), Authorization="Basic Og==")).status == 200


async def test_client_that_asks_for_its_token_by_post_is_given_one(proxy: Client) -> None:
    form = {"grant_type": "password", "username": "alice", "password": PASSWORD, "service": "imagedist"}
    token = (await (await proxy.post("/token", data=form)).json())["access_token"]
    assert (await ask(proxy, manifest(), Authorization=f"Bearer {token}")).status == 200
    form = {"grant_type": "refresh_token", "refresh_token": "id-token"}
    token = (await (await proxy.post("/token", data=form)).json())["access_token"]
    assert parse_basic(f"Basic {token.removeprefix('imagedist.')}") == Credentials("", "", identity_token="id-token")
    assert (await proxy.post("/token", data={"grant_type": "guess"})).status == 400
    assert (await proxy.post("/token", data="nonsense")).status == 400


def login(user: str | None) -> dict[str, str]:
    return {"Authorization": basic(user)} if user else {}


@pytest.mark.parametrize("path", ["/token", f"/site/v1/blobs/{BLOB}/fetch"], ids=["token", "fetch"])
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Encoding": "gzip"}, b"no gzip"),
        ({"Content-Type": "multipart/form-data"}, b"no boundary"),
        ({"Content-Type": "application/x-www-form-urlencoded; charset=nonsense"}, b"grant_type=guess"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"grant_type=\xff"),
    ],
)
async def test_body_that_is_not_what_it_says_is_answered_400(
    proxy: Client, path: str, headers: dict[str, str], body: bytes
) -> None:
    assert (await proxy.post(path, data=body, headers=SECRET | headers)).status == 400


async def test_token_that_upstream_itself_gave_is_passed_on(upstream: FaultyRegistry, proxy: Client) -> None:
    if upstream.auth == "bearer":
        assert (await ask(proxy, manifest(), Authorization="Bearer token-of-alice")).status == 200
        assert (await ask(proxy, manifest(), Authorization="Bearer token-of-bob")).status == 401


async def test_no_credentials_are_ever_on_disk(proxy: Client, tmp_path: Path) -> None:
    await pulled(proxy, "alice")
    await ask(proxy, manifest(), "bob")
    said = b"".join(path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file())
    names = " ".join(str(path) for path in (tmp_path / "site").rglob("*"))
    for secret in (PASSWORD, "alice", basic("alice").split()[1], basic("bob").split()[1]):
        assert secret.encode() not in said
        assert not re.search(re.escape(secret), names)


async def test_only_listed_repositories_are_served(start: Start) -> None:
    proxy = await start(repositories=["open/*"])
    assert (await ask(proxy, manifest("open/app"))).status == 200
    answer = await ask(proxy, manifest(), "alice")
    assert (answer.status, b"NAME_UNKNOWN" in answer.body) == (404, True)
