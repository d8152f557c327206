"""What is kept of a request: metrics by route and client, and the access log's line."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.distribution.served import SERVED, Served
from imagedist.metrics import LOG_LINES_DROPPED, REQUESTS
from imagedist.service import serving
from imagedist.service.access_log import AccessLog, Form
from imagedist.service.clients import client_kind
from imagedist.service.recording import Recorder
from tests.service.raw import raw

LOOPBACK = Address("127.0.0.1", 0)
DOCKER = "docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.1 os/linux arch/amd64"


@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        (DOCKER, "docker"),
        ("containerd/1.6.20~ds1", "containerd"),
        ("containerd/v2.0.0", "containerd"),
        ("libpod/4.3.1", "podman"),
        ("containers/5.23.1 (github.com/containers/image)", "podman"),
        ("Buildah/1.28.2", "buildah"),
        ("skopeo/1.9.3", "skopeo"),
        ("cri-o/1.30 go/go1.22 os/linux arch/amd64", "cri-o"),
        ("imagedist", "agent"),
        ("libtorrent/2.1.1", "agent"),
        ("curl/7.88.1", "other"),
        ("", "other"),
        ("dockers/1", "other"),
        ("\u20ac" * 100, "other"),
    ],
)
def test_a_client_is_known_by_its_first_product(agent: str, kind: str) -> None:
    assert client_kind(agent) == kind


async def blob(request: web.Request) -> web.Response:
    request[SERVED] = Served("blob", "docker.io", "library/nginx", "sha256:ab", "hit", 7)
    return web.Response(text="content")


async def broken(request: web.Request) -> web.Response:
    raise RuntimeError("broken")


@asynccontextmanager
async def logged(form: Form, path: Path) -> AsyncIterator[Address]:
    app = web.Application()
    app.router.add_get("/v2/blob", blob)
    app.router.add_get("/site/v1/torrents/{digest}", broken)
    with path.open("wb") as file:
        log = AccessLog(form, file.fileno())
        async with serving(app, LOOPBACK, recorder=Recorder(log)) as address:
            yield address
        await log.close()


async def ask(address: Address, *paths: str, agent: str = DOCKER) -> None:
    async with aiohttp.ClientSession(headers={"User-Agent": agent}) as client:
        for path in paths:
            async with client.get(f"http://{address}{path}", headers={"Authorization": "Bearer s3cret"}) as response:
                await response.read()


async def test_a_request_is_one_line_of_json_without_secrets(tmp_path: Path) -> None:
    async with logged("json", tmp_path / "log") as address:
        await ask(address, "/v2/blob?signature=s3cret")
    text = (tmp_path / "log").read_text()
    line = json.loads(text)
    assert 0 <= line.pop("first_byte") <= line.pop("seconds") < 10
    assert line.pop("time").endswith("Z")
    assert line == {
        "address": "127.0.0.1",
        "client": "docker",
        "agent": DOCKER,
        "method": "GET",
        "route": "blob",
        "namespace": "docker.io",
        "repository": "library/nginx",
        "reference": "sha256:ab",
        "status": 200,
        "bytes": 7,
        "source": "hit",
        "error": "",
    }
    assert "s3cret" not in text


async def test_text_is_one_line_of_pairs_that_no_client_can_forge(tmp_path: Path) -> None:
    async with logged("text", tmp_path / "log") as address:
        await ask(address, "/v2/blob", "/no%0Asuch=path", agent='a" b=c')
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2
    assert 'client=other agent="a\\" b=c" method=GET route=blob' in lines[0]
    assert "status=404" in lines[1]
    assert 'path="/no\\nsuch=path"' in lines[1]


async def test_failures_and_broken_heads_are_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failed = REQUESTS.labels(route="/site/v1/torrents/{digest}", client="docker", status="500")
    malformed = REQUESTS.labels(route="malformed", client="other", status="400")
    before = failed._value.get(), malformed._value.get()
    async with logged("json", tmp_path / "log") as address:
        await ask(address, "/site/v1/torrents/abc")
        async with raw(address) as client:
            await client.send(b"no such thing\r\n\r\n")
            await client.rest()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/site/v1/torrents/{digest}", 500),
        ("malformed", 400),
    ]
    assert (failed._value.get(), malformed._value.get()) == (before[0] + 1, before[1] + 1)
    caplog.clear()  # the handler's failure is logged by aiohttp: expected


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    yield writer
    os.close(reader)
    os.close(writer)


async def test_a_reader_that_stands_still_costs_lines_but_no_time(unread: int) -> None:
    log = AccessLog("json", unread)
    dropped = LOG_LINES_DROPPED._value.get()
    started = asyncio.get_running_loop().time()
    for _batch in range(8):
        for _ in range(20_000):
            log.write(0.0, {"agent": "x"})
        log._flush()
    assert asyncio.get_running_loop().time() - started < 30  # a blocked writer would never end
    assert LOG_LINES_DROPPED._value.get() > dropped
    async with asyncio.timeout(30):
        await log.close()
