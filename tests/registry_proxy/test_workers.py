"""What must hold across the worker processes of one proxy: real processes, one blob store, one upstream."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from imagedist.config import Address
from imagedist.oci.digest import Digest
from imagedist.swarm.torrent import parse
from tests.service.programs import Program, running
from tests.support.children import children
from tests.support.ports import free_port
from tests.support.registry import FaultyRegistry
from tests.support.waiting import until

WORKERS = 3
LAYER = bytes(range(256)) * (12 << 10)  # 3 MiB
BLOB = Digest.of(LAYER)
BLOB_PATH = f"/v2/up/team/app/blobs/{BLOB}"
TORRENT = f"/site/v1/torrents/{BLOB}?repo=up/team/app"

_CONFIG = """
[proxy]
listen = "{address}"
site_blobs = "{directory}/site"
site_seeders = ["{seeder}"]
workers = {workers}
first_wave_nodes = 2
first_wave_wait = "60s"
drain = "{drain}"
access_log = "off"
[upstreams.up]
url = "{upstream}"
"""


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.add_image("team/app", "1", LAYER)
        yield registry


@pytest.fixture
async def seeder() -> AsyncIterator[tuple[str, Counter[str]]]:
    """Its URL, and how often it was told what."""
    told: Counter[str] = Counter()

    async def seed(request: web.Request) -> web.Response:
        told[f"{request.method} {request.match_info['digest']}"] += 1
        return web.Response(status=204)

    app = web.Application()
    app.router.add_route("*", "/site/v1/seeds/{digest}", seed)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}", told


Start = Callable[[], AbstractAsyncContextManager[tuple[Program, Address]]]


@pytest.fixture
def start(tmp_path: Path, upstream: FaultyRegistry, seeder: tuple[str, Counter[str]]) -> Start:
    @asynccontextmanager
    async def start() -> AsyncIterator[tuple[Program, Address]]:
        address = Address("127.0.0.1", free_port())
        (tmp_path / "proxy.toml").write_text(
            _CONFIG.format(
                address=address,
                directory=tmp_path,
                seeder=seeder[0],
                workers=WORKERS,
                upstream=upstream.url,
                drain="2s",
            )
        )
        argv = ["-m", "registry_proxy", "--config", str(tmp_path / "proxy.toml")]
        async with running(argv, {"TMPDIR": str(tmp_path)}) as program:
            await program.hear(f"{WORKERS} workers serve")
            yield program, address

    return start


async def ask(address: Address, path: str, node: str = "") -> tuple[int, bytes]:
    """By a connection of its own, so that any worker may answer."""
    async with aiohttp.ClientSession(headers={"X-Imagedist-Node": node}) as client:
        async with client.get(f"http://{address}{path}") as response:
            return response.status, await response.read()


async def test_a_cold_blob_is_fetched_once_however_many_ask_whichever_worker(
    start: Start, upstream: FaultyRegistry
) -> None:
    upstream.gate = asyncio.Event()
    async with start() as (_, address):
        asking = [asyncio.create_task(ask(address, BLOB_PATH)) for _ in range(30)]
        await asyncio.wait(asking, timeout=1.0)
        upstream.gate.set()
        assert set(await asyncio.gather(*asking)) == {(200, LAYER)}
    assert upstream.blob_gets[BLOB] == 1


async def test_the_fetch_goes_on_where_a_killed_worker_left_it(start: Start, upstream: FaultyRegistry) -> None:
    upstream.gate = asyncio.Event()
    async with start() as (program, address):
        asking = [asyncio.create_task(ask(address, BLOB_PATH)) for _ in range(12)]
        await asyncio.wait(asking, timeout=1.0)
        for worker in children(program.pid)[:2]:  # one of the two, or neither, was fetching
            os.kill(worker, signal.SIGKILL)
        upstream.gate.set()
        await asyncio.gather(*asking, return_exceptions=True)  # those of the dead workers are cut off
        assert await ask(address, BLOB_PATH) == (200, LAYER)
    assert upstream.blob_gets[BLOB] <= 3


async def test_the_first_wave_is_as_large_as_with_one_process(start: Start, upstream: FaultyRegistry) -> None:
    upstream.gate = asyncio.Event()
    async with start() as (_, address):

        async def action(node: int) -> str:
            status, body = await ask(address, TORRENT, f"node-{node}")
            assert status == 202, body
            found = re.search(rb'"action": ?"(\w+)"', body)
            assert found is not None
            return found[1].decode()

        for _ in range(2):  # whoever asks again, perhaps another worker, is told the same
            assert Counter(await asyncio.gather(*map(action, range(24)))) == {"stream": 2, "wait": 22}
        upstream.gate.set()
        while (await ask(address, TORRENT, "node-0"))[0] == 202:
            pass


async def test_the_torrent_is_made_once_and_the_seeder_told_once(
    start: Start, upstream: FaultyRegistry, seeder: tuple[str, Counter[str]]
) -> None:
    upstream.gate = asyncio.Event()
    async with start() as (_, address):
        asking = [asyncio.create_task(ask(address, f"{TORRENT}&wait=50", f"node-{i}")) for i in range(24)]
        await asyncio.wait(asking, timeout=1.0)
        upstream.gate.set()
        for status, body in await asyncio.gather(*asking):
            if status == 202:  # of the first wave
                status, body = await ask(address, f"{TORRENT}&wait=50", "node-0")
            assert status == 200
            assert parse(body).size_bytes == len(LAYER)
    assert seeder[1] == {f"PUT {BLOB}": 1}


async def test_a_tag_is_asked_about_once_and_purged_at_once_in_all_workers(
    start: Start, upstream: FaultyRegistry
) -> None:
    path = "/v2/up/team/app/manifests/1"
    async with start() as (_, address):

        async def meanings() -> set[Digest]:
            return {Digest.of(body) for _, body in await asyncio.gather(*(ask(address, path) for _ in range(30)))}

        before = await meanings()
        assert upstream.requests["GET /v2/team/app/manifests/1"] == 1
        assert await asyncio.gather(*(ask(address, path.replace("/1", "/2")) for _ in range(30)))
        moved = {upstream.add_image("team/app", tag, b"moved") for tag in ("1", "2")}
        assert await meanings() == before
        async with aiohttp.ClientSession() as client:
            async with client.delete(f"http://{address}/site/v1/tags?repo=up/team/app") as response:
                assert response.status == 200
        assert await meanings() == moved
        absent = await asyncio.gather(*(ask(address, path.replace("/1", "/2")) for _ in range(30)))
        assert {status for status, _ in absent} == {200}  # what was not there is forgotten, too


async def test_metrics_are_those_of_all_workers(start: Start, tmp_path: Path) -> None:
    async with start() as (program, address):
        for _ in range(30):
            assert (await ask(address, "/v2/"))[0] == 200
        _, text = await ask(address, "/metrics")
        assert b'imagedist_requests_total{client="other",route="base",status="200"} 30.0' in text
        program.signal(signal.SIGTERM)
        assert await program.end() == 0
    assert list(tmp_path.glob("imagedist-workers-*/*/")) == []


async def test_a_proxy_that_stops_in_mid_fetch_leaves_it_to_the_next_one(
    start: Start, upstream: FaultyRegistry
) -> None:
    upstream.gate = asyncio.Event()
    async with start() as (program, address):
        asking = asyncio.create_task(ask(address, BLOB_PATH))
        await until(lambda: upstream.bytes_sent > 0)
        program.signal(signal.SIGTERM)
        await program.hear("cutting 1 requests off")  # after [proxy] drain
        assert await program.end() == 0
        with pytest.raises(aiohttp.ClientError):
            await asking
    half_bytes = upstream.bytes_sent
    upstream.gate.set()
    async with start() as (_, address):
        assert await ask(address, BLOB_PATH) == (200, LAYER)
    assert 0 < half_bytes < len(LAYER)
    assert upstream.bytes_sent - half_bytes < len(LAYER)  # the rest, not all of it again


async def test_long_polls_do_not_hold_up_the_stop(start: Start, upstream: FaultyRegistry) -> None:
    upstream.gate = asyncio.Event()
    async with start() as (program, address):
        asking = [asyncio.create_task(ask(address, f"{TORRENT}&wait=50", f"node-{i}")) for i in range(6)]
        await asyncio.wait(asking, timeout=3.0)  # all have connected by then: nobody tells
        program.signal(signal.SIGTERM)
        assert {status for status, _ in await asyncio.gather(*asking)} == {202}
        assert await program.end() == 0
        assert "cutting" not in program.said
