"""The benchmark of the proxy: its client, and a whole run in the smallest size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.in_turn import ratio
from bench.load import run as load
from bench.proxy import Scale, run
from bench.result import Result, Run
from bench.serving import gets, pinned, proxy_config
from imagedist.config import ProxyConfig
from imagedist.config import load as load_config
from imagedist.oci.digest import Digest

BODY = bytes(300_000)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/cut":
            response = web.StreamResponse(headers={"Content-Length": "10"})
            await response.prepare(request)
            await response.write(b"12345")
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(body=BODY, status=404 if request.path == "/missing" else 200)

    app = web.Application()
    app.router.add_get("/{path}", answer)
    async with TestServer(app) as running:
        yield str(running.make_url(""))


async def test_client_counts_what_it_threw_away(server: str) -> None:
    tally = await asyncio.to_thread(load, f"{server}/blob", 3, 2)
    assert (tally.requests, tally.body_bytes, tally.errors) == (6, 6 * len(BODY), 0)
    assert len(tally.first_byte_seconds) == len(tally.whole_seconds) == 6


@pytest.mark.parametrize("path", ["missing", "cut"])
async def test_client_does_not_take_an_error_for_a_blob(server: str, path: str) -> None:
    tally = await asyncio.to_thread(load, f"{server}/{path}", 2, 1)
    assert (tally.requests, tally.errors) == (0, 2)


def test_witness_is_read_blob_by_blob(tmp_path: Path) -> None:
    blob, other = Digest.of(b"1"), Digest.of(b"2")
    (tmp_path / "log").write_text(
        f'127.0.0.1 - - [27/Nov/2026] "GET /v2/bench/blobs/blobs/{blob} HTTP/1.1" 200 1 "" "imagedist"\n'
        f'127.0.0.1 - - [27/Nov/2026] "HEAD /v2/bench/blobs/blobs/{blob} HTTP/1.1" 200 1 "" "imagedist"\n'
        f'127.0.0.1 - - [27/Nov/2026] "GET /v2/bench/blobs/blobs/{other} HTTP/1.1" 200 1 "" "imagedist"\n'
    )
    assert gets(tmp_path / "log", blob) == 1


def test_servers_run_where_they_are_told(tmp_path: Path) -> None:
    assert pinned(["nginx"], [0]) == ["taskset", "--cpu-list", "0", "nginx"]
    assert pinned(["nginx"], None) == ["nginx"]
    config = proxy_config(tmp_path, "127.0.0.1:1", "http://127.0.0.1:2")
    assert load_config(config, ProxyConfig).upstreams["upstream"].url == "http://127.0.0.1:2"


def test_rows_are_compared_pair_by_pair() -> None:
    theirs, ours = (
        [Run(round=at, seconds=one, cpu_seconds=0) for at, one in enumerate(seconds)]
        for seconds in ((1.0, 4.0, 3.0), (2.0, 2.0, 3.0))
    )
    assert ratio(theirs, ours) == 1.0
    assert ratio((), ours) == 0.0


@pytest.mark.e2e("docker-registry")
def test_benchmark_of_the_proxy_runs_and_upstream_is_asked_once() -> None:
    kept: list[Result] = []
    result = run(Scale(1, 1_000_000, 1, 20, 5_000_000, 20), lambda line: None, kept.append)
    assert len(kept) >= 5, "every comparison is kept for itself"
    verdicts = {verdict.what: verdict.value for verdict in result.verdicts}
    assert verdicts["20 clients at once, 5 MB cold: upstream was asked"] == 1
    assert verdicts["anonymous memory with 20 open downloads"] > 0
    assert all(row.runs or row.not_run for row in result.contestants)
