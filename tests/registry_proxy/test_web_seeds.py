"""Web seeds: who may have a blob gets a URL that needs no credentials, for this blob and for ten minutes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import prometheus_client
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.oci.digest import Digest
from registry_proxy.app import create_app
from registry_proxy.web_seeds import Signatures
from tests.support.registry import PASSWORD, FaultyRegistry, basic

LAYER, OTHER_LAYER = os.urandom(300_000), os.urandom(1000)
BLOB, OTHER = Digest.of(LAYER), Digest.of(OTHER_LAYER)
ALICE = {"Authorization": basic("alice", PASSWORD)}
Client = TestClient[web.Request, web.Application]
Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """A proxy whose ``team/app`` is for alice alone; ``open/app`` is for everyone."""
    clients: list[Client] = []
    (tmp_path / "token").write_text("site-secret")
    async with FaultyRegistry() as registry:
        registry.auth = "basic"
        registry.readers = {"team/app": {"alice"}}
        registry.add_image("team/app", "1", LAYER)
        registry.add_image("open/app", "1", OTHER_LAYER)

        async def start(*, has_token: bool = True) -> Client:
            table = {"listen": "127.0.0.1:0", "site_blobs": str(tmp_path / "site")}
            token = {"site_token_file": str(tmp_path / "token")} if has_token else {}
            upstream = {"url": registry.url, "mode": "passthrough"}
            config = ProxyConfig.model_validate({"proxy": table | token, "upstreams": {"up": upstream}})
            client: Client = TestClient(TestServer(create_app(config)))
            await client.start_server()
            clients.append(client)
            await get(client, f"/v2/up/team/app/blobs/{BLOB}", ALICE)
            await get(client, f"/v2/up/open/app/blobs/{OTHER}")
            return client

        yield start
        for client in clients:
            await client.close()


async def get(client: Client, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    async with client.get(path, headers=headers) as response:
        return response.status, await response.read()


async def web_seed(
    client: Client, digest: Digest, repository: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    async with client.get(f"/site/v1/web-seeds/{digest}?repo=up/{repository}", headers=headers) as response:
        return response.status, await response.json()


async def test_a_private_blobs_url_is_given_to_who_may_have_it_and_works_without_credentials(start: Start) -> None:
    proxy = await start()
    assert (await web_seed(proxy, BLOB, "team/app"))[0] == 401
    status, named = await web_seed(proxy, BLOB, "team/app", ALICE)
    assert (status, named["life_seconds"]) == (200, 600)
    path = named["path"] + "&swarm=/" + BLOB.hex  # libtorrent adds the name
    assert await get(proxy, f"/v2/up/team/app/blobs/{BLOB}") != (200, LAYER)
    assert await get(proxy, path) == (200, LAYER)
    assert await get(proxy, path, {"Range": "bytes=100-199"}) == (206, LAYER[100:200])


def refused(cause: str) -> float:
    value = prometheus_client.REGISTRY.get_sample_value("imagedist_web_seeds_refused_total", {"cause": cause})
    return value or 0.0


@pytest.mark.parametrize(
    ("cause", "changed", "says"),
    [
        ("unsigned", {"signature": None}, b"needs a signature"),
        ("unsigned", {"expires": None}, b"needs a signature"),
        ("forged", {"signature": "0" * 64}, b"not this site's, or not for this blob"),
        ("forged", {"signature": "\u00e9"}, b"not this site's"),
        ("forged", {"expires": "99999999999"}, b"not this site's"),
        ("malformed", {"expires": "soon"}, b"not a time"),
        ("malformed", {"expires": "9" * 5000}, b"not a time"),
    ],
)
async def test_a_url_that_was_changed_is_refused_and_counted(
    start: Start, cause: str, changed: dict[str, str | None], says: bytes
) -> None:
    proxy = await start()
    _, named = await web_seed(proxy, BLOB, "team/app", ALICE)
    parts = urlsplit(named["path"])
    query = dict(parse_qsl(parts.query)) | changed
    kept = {name: value for name, value in query.items() if value is not None}
    before = refused(cause)
    status, body = await get(proxy, f"{parts.path}?{urlencode(kept)}")
    assert status == 403
    assert says in body
    assert LAYER[:100] not in body
    assert refused(cause) == before + 1


async def test_one_blobs_url_gives_no_other_and_nothing_but_a_blob(start: Start) -> None:
    proxy = await start()
    _, named = await web_seed(proxy, OTHER, "open/app")
    assert await get(proxy, named["path"]) == (200, OTHER_LAYER)
    assert (await get(proxy, named["path"].replace(str(OTHER), str(BLOB))))[0] == 403
    assert (await get(proxy, named["path"].replace(f"blobs/{OTHER}", "manifests/1")))[0] == 403
    assert (await get(proxy, named["path"].replace(f"blobs/{OTHER}", "tags/list")))[0] == 403


async def test_what_is_not_here_has_no_web_seed(start: Start) -> None:
    status, told = await web_seed(await start(), Digest.of(b"elsewhere"), "open/app")
    assert status == 404
    assert "ask for its torrent" in told["error"]["message"]


async def test_a_site_without_a_token_names_plain_urls_of_what_everyone_may_have(start: Start) -> None:
    proxy = await start(has_token=False)
    status, named = await web_seed(proxy, OTHER, "open/app")
    assert (status, named["life_seconds"]) == (200, None)
    assert await get(proxy, named["path"]) == (200, OTHER_LAYER)
    status, told = await web_seed(proxy, BLOB, "team/app", ALICE)
    assert status == 404
    assert "site_token_file" in told["error"]["message"]
    assert (await get(proxy, f"/site/v1/signed/v2/up/team/app/blobs/{BLOB}"))[0] == 404


def test_a_url_expires_and_every_proxy_with_the_token_knows_it() -> None:
    now = [1e9]
    ours, another, stranger = (Signatures(token, lambda: now[0]) for token in ("site", "site", "other"))
    query = ours.query(BLOB)
    assert another.refusal(BLOB, query) is None
    assert (stranger.refusal(BLOB, query) or ("",))[0] == "forged"
    assert (another.refusal(OTHER, query) or ("",))[0] == "forged"
    now[0] += 601
    assert (another.refusal(BLOB, query) or ("",))[0] == "expired"


async def test_no_log_has_a_signature(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    proxy = await start()
    _, named = await web_seed(proxy, BLOB, "team/app", ALICE)
    (tmp_path / "site" / "blobs" / "sha256" / BLOB.hex).unlink()
    assert (await get(proxy, named["path"]))[0] == 404
    signature = dict(parse_qsl(urlsplit(named["path"]).query))["signature"]
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("imagedist")]
    assert any(f"/blobs/{BLOB}?" in message for message in logged)
    assert not any(signature in message for message in logged)
