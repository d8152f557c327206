"""A purge by API and by command line: the whole site forgets at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from registry_proxy.app import create_app
from tests.support.registry import FaultyRegistry

Client = TestClient[web.Request, web.Application]
SECRET = {"Authorization": "Bearer site-secret"}
DEAD = "http://127.0.0.1:1"


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        yield registry


class Proxies:
    """Three proxies of one site: two processes on one store, and another host's, of which the first knows."""

    def __init__(self, upstream: FaultyRegistry, directory: Path) -> None:
        self._upstream = upstream
        self._directory = directory
        self.clients: list[Client] = []

    async def start(self, store: str, *others: str) -> Client:
        table = {
            "listen": "127.0.0.1:0",
            "site_blobs": str(self._directory / store),
            "site_token_file": str(self._directory / "token"),
            "site_proxies": others,
        }
        up: dict[str, Any] = {"url": self._upstream.url, "hosts": ["registry.local:5000"], "tag_ttl": "1h"}
        up["negative_ttl"] = "1h"
        config = ProxyConfig.model_validate({"proxy": table, "upstreams": {"up": up}})
        client: Client = TestClient(TestServer(create_app(config)))
        await client.start_server()
        self.clients.append(client)
        return client

    async def digests(self, tag: str = "1") -> list[str | None]:
        """What each proxy says that the tag means."""
        answers = [await client.head(f"/v2/up/team/app/manifests/{tag}") for client in self.clients]
        return [answer.headers.get("Docker-Content-Digest") for answer in answers]


@pytest.fixture
async def site(upstream: FaultyRegistry, tmp_path: Path) -> AsyncIterator[Proxies]:
    (tmp_path / "token").write_text("site-secret\n")
    proxies = Proxies(upstream, tmp_path)
    other = await proxies.start("other-host")
    await proxies.start("here", str(other.make_url("")).rstrip("/"))
    await proxies.start("here")
    yield proxies
    for client in proxies.clients:
        await client.close()


async def purge(client: Client, headers: dict[str, str] = SECRET, **query: str) -> tuple[int, Any]:
    response = await client.delete("/site/v1/tags", params=query, headers=headers)
    return response.status, await response.json()


async def test_purged_tag_is_asked_for_again_by_every_process_and_every_proxy(
    site: Proxies, upstream: FaultyRegistry
) -> None:
    first, other = (str(upstream.add_image("team/app", tag, b"one")) for tag in ("1", "2"))
    assert await site.digests() == [first] * 3
    assert await site.digests("2") == [other] * 3
    moved = str(upstream.add_image("team/app", "1", b"two"))
    upstream.add_image("team/app", "2", b"two")
    assert await site.digests() == [first] * 3

    status, done = await purge(site.clients[1], ns="registry.local:5000", repo="team/app", tag="1")

    assert status == 200
    assert done == {"format": 1, "upstream": "up", "repository": "team/app", "tag": "1", "tags": 2, "proxies": 2}
    assert await site.digests() == [moved] * 3
    assert await site.digests("2") == [other] * 3


async def test_purged_repository_forgets_all_its_tags_and_what_was_absent(
    site: Proxies, upstream: FaultyRegistry
) -> None:
    for tag in ("1", "2"):
        upstream.add_image("team/app", tag, b"one")
        await site.digests(tag)
    assert await site.digests("3") == [None] * 3
    moved = {tag: str(upstream.add_image("team/app", tag, b"two")) for tag in ("1", "2", "3")}

    status, done = await purge(site.clients[1], repo="up/team/app")

    assert (status, done["tags"]) == (200, 4)
    assert {tag: await site.digests(tag) for tag in moved} == {tag: [digest] * 3 for tag, digest in moved.items()}


@pytest.mark.parametrize(
    ("query", "headers", "status", "says"),
    [
        ({"repo": "up/team/app"}, {}, 401, "expected the site token"),
        ({"repo": "up/TEAM"}, SECRET, 400, "invalid repo"),
        ({"repo": "up/team/app", "tag": ".."}, SECRET, 400, "invalid tag"),
        ({"repo": "team/app", "ns": "quay.io"}, SECRET, 404, "no upstream for ns=quay.io"),
    ],
)
async def test_purge_says_what_is_wrong_with_it(
    site: Proxies, query: dict[str, str], headers: dict[str, str], status: int, says: str
) -> None:
    answered, body = await purge(site.clients[0], headers, **query)
    assert answered == status
    assert says in body["error"]["message"]


async def test_purge_that_did_not_reach_every_proxy_says_so(site: Proxies, upstream: FaultyRegistry) -> None:
    client = await site.start("third", DEAD)
    status, body = await purge(client, repo="up/team/app", tag="1")
    assert status == 502
    assert f"not at every proxy of the site ({DEAD}" in body["error"]["message"]


def imagedist(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imagedist", "purge", *arguments], capture_output=True, text=True, check=False
    )


async def test_command_purges_by_the_name_that_users_pull(
    site: Proxies, upstream: FaultyRegistry, tmp_path: Path
) -> None:
    upstream.add_image("team/app", "1", b"one")
    await site.digests()
    moved = str(upstream.add_image("team/app", "1", b"two"))
    proxy = ["--proxy", DEAD, "--proxy", str(site.clients[1].make_url(""))]
    token = ["--token-file", str(tmp_path / "token")]

    done = await asyncio.to_thread(imagedist, "registry.local:5000/team/app:1", *proxy, *token)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "purged registry.local:5000/team/app:1 (up/team/app): 2 tags at 2 proxies\n"
    assert await site.digests() == [moved] * 3
    done = await asyncio.to_thread(imagedist, "registry.local:5000/team/app", *proxy, *token, "--json")
    assert json.loads(done.stdout)["tags"] == 2
    done = await asyncio.to_thread(imagedist, "registry.local:5000/team/app", *proxy)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "expected the site token" in done.stderr
