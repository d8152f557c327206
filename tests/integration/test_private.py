"""Private images through a node's agent: its cache gives nothing to whom the site would not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from imagedist import commands
from imagedist.errors import ChallengeError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from tests.support import layers
from tests.support.registry import basic
from tests.support.site import REGISTRY, Site

LAYER = os.urandom(2 << 20)
BLOB = Digest.of(LAYER)
BLOB_PATH = f"/v2/team/app/blobs/{BLOB}?ns={REGISTRY}"
TAG_PATH = f"/v2/team/app/manifests/1?ns={REGISTRY}"


class Mirror:
    """A node's mirror as its clients ask it."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._url = f"http://{address}"

    async def ask(self, path: str, user: str | None = None, method: str = "GET") -> tuple[int, bytes]:
        headers = {"Authorization": basic(user)} if user else {}
        async with self._session.request(method, self._url + path, headers=headers) as response:
            return response.status, await response.read()

    async def statuses(self, path: str, *users: str | None) -> list[int]:
        return [(await self.ask(path, user))[0] for user in users]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def private(directory: Path, **settings: object) -> Site:
    site = Site(directory, {"mode": "passthrough", **settings})
    site.upstream.auth = "bearer"
    site.upstream.readers = {"team/app": {"alice", "carol"}, "team/bobs": {"bob"}}
    for repository in ("team/app", "open/app"):
        site.upstream.add_image(repository, "1", LAYER)
    return site


async def test_private_image_in_a_nodes_cache_is_given_only_to_who_may_read_it(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with private(tmp_path) as site, site.agent() as (_, address, _):
        mirror = Mirror(session, address)
        assert await mirror.statuses("/v2/", None, "alice") == [401, 200]
        _, manifest = await mirror.ask(TAG_PATH, "alice")
        by_digest = f"/v2/team/app/manifests/{Digest.of(manifest)}?ns={REGISTRY}"
        assert await mirror.ask(BLOB_PATH, "alice") == (200, LAYER)
        for path in (BLOB_PATH, TAG_PATH, by_digest):
            assert await mirror.statuses(path, None, "bob", "carol", "alice") == [401, 401, 200, 200], path
        assert (await mirror.ask(BLOB_PATH, "bob", "HEAD"))[0] == 401
        status, _ = await mirror.ask(f"/v2/team/bobs/blobs/{Digest.of(b'absent')}?ns={REGISTRY}", "bob")
        assert status == 404
        assert site.upstream.blob_gets == {BLOB: 1}
        assert not list((tmp_path / "site").rglob("*.torrent"))


async def test_open_image_swarms_and_is_given_to_everyone(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with private(tmp_path) as site, site.agent() as (_, first, _), site.agent() as (_, second, _):
        path = f"/v2/open/app/blobs/{BLOB}?ns={REGISTRY}"
        for address in (first, second):
            assert await Mirror(session, address).statuses(path, "alice", None, "bob") == [200] * 3
        assert list((tmp_path / "site").rglob("*.torrent"))


async def test_node_whose_site_is_down_serves_those_it_served_lately_and_no_others(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with private(tmp_path) as site, site.agent() as (_, address, _):
        mirror = Mirror(session, address)
        assert await mirror.ask(BLOB_PATH, "alice") == (200, LAYER)
        await site.stop_proxy()
        assert await mirror.ask(BLOB_PATH, "alice") == (200, LAYER)
        assert await mirror.statuses(BLOB_PATH, None, "bob", "carol") == [502] * 3
        assert await mirror.statuses("/v2/", "alice") == [200]


async def test_service_accounts_image_is_not_given_in_another_upstreams_name(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    (tmp_path / "password").write_text("pass:word")
    account = {"username": "alice", "password_file": str(tmp_path / "password")}
    site = private(tmp_path / "site", mode="service-account", **account)
    async with site, site.agent() as (_, address, _):
        mirror = Mirror(session, address)
        assert await mirror.statuses("/v2/", None) == [200]
        assert await mirror.ask(BLOB_PATH) == (200, LAYER)  # whoever reaches the agent reads
        assert (await mirror.ask(f"/v2/team/app/blobs/{BLOB}?ns=elsewhere.example"))[0] == 404


async def test_pull_by_the_agent_is_done_with_the_users_login_once_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = layers.image([[layers.directory("etc"), layers.file("etc/a", b"content")]])
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    async with private(tmp_path) as site, site.agent() as (client, _, _):
        site.put(built, "team/app", "2")
        reference = Reference.parse(f"{REGISTRY}/team/app:2")

        def pull() -> None:
            commands.pull_by_agent(reference, None, client.socket, as_json=True)

        for user in (None, "bob"):
            auths = {REGISTRY: {"auth": basic(user).split()[1]}} if user else {}
            (tmp_path / "auth.json").write_text(json.dumps({"auths": auths}))
            with pytest.raises(ChallengeError, match="denied" if user else "no login for registry.example"):
                await asyncio.to_thread(pull)
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {REGISTRY: {"auth": basic("alice").split()[1]}}}))
        await asyncio.to_thread(pull)


async def test_a_private_blob_that_may_swarm_comes_by_a_signed_web_seed_when_no_peer_has_it(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """The seeder is gone, and so is the node that had it: the session has no credentials, the URL needs none."""
    (tmp_path / "token").write_text("site-secret")
    proxy = {"site_token_file": tmp_path / "token", "first_wave_nodes": 1}
    site = Site(tmp_path / "site", {"mode": "passthrough", "private_in_swarm": True}, **proxy)
    site.upstream.auth = "bearer"
    site.upstream.readers = {"team/app": {"alice", "carol"}}
    site.upstream.add_image("team/app", "1", LAYER)
    async with site:
        async with site.agent() as (_, first, _):
            assert await Mirror(session, first).ask(BLOB_PATH, "alice") == (200, LAYER)
        await site.stop_seeder()
        async with site.agent() as (client, second, _):
            mirror = Mirror(session, second)
            assert await mirror.ask(BLOB_PATH, "carol") == (200, LAYER)
            received = (await asyncio.to_thread(client.transfers)).received_bytes
            assert await mirror.statuses(BLOB_PATH, None, "bob") == [401, 401]
    assert received == {"webseed": len(LAYER)}
