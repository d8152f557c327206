"""An upstream that answers, but not with what was asked for: the right status, a reason in the log, nothing kept."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from registry_proxy.app import create_app

Client = TestClient[web.Request, web.Application]
Answer = Callable[[web.Request], web.StreamResponse]
Start = Callable[[Answer], Awaitable[Client]]

MANIFEST = b'{"schemaVersion": 2}'
DIGEST = Digest.of(MANIFEST)
BLOB = Digest.of(b"blob")
LARGE = json.dumps({"schemaVersion": 2, "annotations": {"a": "b" * (5 << 20)}}).encode()
PAGE = b"<!DOCTYPE html><title>Please log in</title>"


class Upstream:
    """Answers every request as it is told, and counts them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Answer = lambda request: web.Response(status=404)
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self.server = TestServer(app)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return self.answer(request)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    async with upstream.server:
        yield upstream


@pytest.fixture
async def proxy(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        tables = {
            "proxy": {"listen": "127.0.0.1:0", "site_blobs": str(tmp_path / "site")},
            "upstreams": {"up": {"url": str(upstream.server.make_url("")).rstrip("/")}},
        }
        app = create_app(ProxyConfig.model_validate(tables))
        yield await stack.enter_async_context(TestClient(TestServer(app)))


def kept(tmp_path: Path) -> list[str]:
    return [
        str(path)
        for folder in ("manifests", "tags", "blobs", "partial")
        for path in (tmp_path / "site" / folder).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]


def answering(body: bytes, media_type: str = OCI_MANIFEST, digest: Digest | None = None, status: int = 200) -> Answer:
    headers = {"Content-Type": media_type} | ({"Docker-Content-Digest": str(digest)} if digest else {})
    return lambda request: web.Response(body=body, headers=headers, status=status)


@pytest.mark.parametrize(
    ("path", "answer", "status", "code", "reason"),
    [
        ("manifests/1", answering(LARGE), 502, "MANIFEST_INVALID", "larger than"),
        (f"manifests/{DIGEST}", answering(LARGE), 502, "MANIFEST_INVALID", "larger than"),
        ("manifests/1", answering(MANIFEST, digest=BLOB), 502, "DIGEST_INVALID", "wrong bytes"),
        (f"manifests/{BLOB}", answering(MANIFEST), 502, "DIGEST_INVALID", "wrong bytes"),
        ("manifests/1", answering(PAGE, "text/html"), 502, "UNAVAILABLE", "no manifest"),
        (f"manifests/{Digest.of(PAGE)}", answering(PAGE, "text/html"), 502, "UNAVAILABLE", "no manifest"),
        ("manifests/1", answering(b"", OCI_MANIFEST), 502, "UNAVAILABLE", "no manifest"),
        ("manifests/1", answering(PAGE, status=418), 502, "UNAVAILABLE", "418"),
        ("tags/list", answering(PAGE, "text/html"), 502, "UNAVAILABLE", "no list of tags"),
        ("tags/list", answering(b'{"tags": "all"}', "application/json"), 502, "UNAVAILABLE", "no list of tags"),
        (f"blobs/{BLOB}", answering(b"", status=204), 502, "UNAVAILABLE", "204"),
    ],
)
async def test_lie_is_refused_with_its_reason_and_not_kept(
    proxy: Client,
    upstream: Upstream,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    path: str,
    answer: Answer,
    status: int,
    code: str,
    reason: str,
) -> None:
    upstream.answer = answer
    with caplog.at_level(logging.INFO):
        response = await proxy.get(f"/v2/up/team/app/{path}")
        error = (await response.json())["errors"][0]
    assert (response.status, error["code"]) == (status, code)
    assert reason in error["message"]
    assert any(reason in record.getMessage() for record in caplog.records)
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
    assert kept(tmp_path) == []


async def test_what_lied_is_not_asked_again_at_once(proxy: Client, upstream: Upstream) -> None:
    for answer in (answering(LARGE), answering(PAGE, "text/html"), answering(MANIFEST, digest=BLOB)):
        upstream.answer = answer
        upstream.asked.clear()
        tag = f"t{len(await answer_bytes(answer))}"
        for _ in range(3):
            assert (await proxy.get(f"/v2/up/team/app/manifests/{tag}")).status == 502
        assert len(upstream.asked) == 1


async def answer_bytes(answer: Answer) -> bytes:
    response = answer(None)  # type: ignore[arg-type]  # these look at nothing
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return response.body


async def test_index_that_points_at_itself_is_given_and_not_followed(proxy: Client, upstream: Upstream) -> None:
    """Its digest cannot be right, which is for whoever asks for it to find out."""
    entry = {"mediaType": OCI_INDEX, "digest": str(DIGEST), "size": len(MANIFEST)}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * 100}).encode()
    upstream.answer = answering(index, OCI_INDEX)
    assert await (await proxy.get("/v2/up/team/app/manifests/1")).read() == index
    assert len(upstream.asked) == 1
    itself = await proxy.get(f"/v2/up/team/app/manifests/{DIGEST}")
    assert (itself.status, (await itself.json())["errors"][0]["code"]) == (502, "DIGEST_INVALID")


async def test_layer_with_a_foreign_url_makes_the_proxy_ask_nobody(proxy: Client, upstream: Upstream) -> None:
    layer = {"mediaType": OCI_LAYER, "digest": str(BLOB), "size": 4, "urls": ["http://169.254.169.254/latest"]}
    manifest = json.dumps({"schemaVersion": 2, "layers": [layer]}).encode()
    upstream.answer = answering(manifest)
    assert await (await proxy.get("/v2/up/team/app/manifests/1")).read() == manifest
    assert upstream.asked == ["/v2/team/app/manifests/1"]


async def test_media_type_is_passed_on_as_it_is_whatever_the_document_says(proxy: Client, upstream: Upstream) -> None:
    """To believe it is the client's part ("Pulling manifests"): a mirror that corrected it would hide the lie."""
    document = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST}).encode()
    upstream.answer = answering(document, "application/vnd.oci.image.index.v1+json; charset=utf-8")
    assert (await proxy.get("/v2/up/team/app/manifests/1")).headers["Content-Type"] == OCI_INDEX
    upstream.answer = answering(document, "nonsense")
    assert (await proxy.get("/v2/up/team/app/manifests/2")).headers["Content-Type"] == "application/octet-stream"
