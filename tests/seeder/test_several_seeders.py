"""Several seeders of a site on one PostgreSQL: real processes, of which one is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import SourceError
from imagedist.nodes import Heartbeat
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_MANIFEST
from imagedist.preheat.shapes import ImageReport, Orders, PreheatStatus, Report, RuleReport
from imagedist.service import serving
from imagedist.site import Site
from tests.support import waiting
from tests.support.ports import free_port
from tests.support.postgres import Cluster
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e("postgresql"), pytest.mark.timeout(120)]
CONFIG = b"{}"
TAKEOVER_SECONDS = 6


class Proxy:
    """Stands for the site's proxy: a registry of small images, and what is asked at a time for each tag.

    Each seeder asks it at an address of its own, by which they are told apart.
    """

    def __init__(self, tags: int) -> None:
        self.manifests = {f"t{number}": self._manifest(number) for number in range(tags)}
        self._tag_of = {str(Digest.of(body)): tag for tag, body in self.manifests.items()}
        self.working: dict[str, str] = {}
        """Tag → the address by which it is worked on now."""
        self.collisions: list[str] = []
        self.puts: Counter[str] = Counter()
        self.put_by: Counter[str] = Counter()
        self.pause_seconds = 0.02
        self._hosts: set[str] = set()
        self._both_came = asyncio.Event()

    @staticmethod
    def _manifest(number: int) -> bytes:
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(CONFIG)}
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 1, "digest": str(Digest.of(b"l"))}
        document = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {**config, "digest": str(Digest.of(CONFIG))},
            "layers": [layer], "annotations": {"number": str(number)},
        }  # fmt: skip
        return json.dumps(document).encode()

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/site/v1/upstreams", self._upstreams),
                web.get("/site/v1/registry/tag", self._tag_now),
                web.get("/v2/{name:.+}/tags/list", self._tags),
                web.get("/v2/{name:.+}/manifests/{reference}", self._get_manifest),
                web.post("/site/v1/blobs/{digest}/fetch", self._fetch),
                web.put("/site/v1/synced", self._put),
            ]
        )
        return app

    def killed(self, host: str) -> None:
        """What a seeder had under way is not any more."""
        self.working = {tag: worker for tag, worker in self.working.items() if worker != host}

    async def _upstreams(self, _: web.Request) -> web.Response:
        return web.json_response({"upstreams": {"local": []}, "default": "local"})

    async def _tags(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "team/app", "tags": list(self.manifests)})

    async def _tag_now(self, request: web.Request) -> web.Response:
        return web.json_response({"digest": str(Digest.of(self.manifests[request.query["tag"]]))})

    async def _get_manifest(self, request: web.Request) -> web.Response:
        reference = request.match_info["reference"]
        tag = self._tag_of.get(reference)
        if tag is not None:
            if self.working.setdefault(tag, request.host) != request.host:
                self.collisions.append(tag)
            self._hosts.add(request.host)
            if len(self._hosts) == 2:
                self._both_came.set()
            await self._both_came.wait()  # or the first to start could do all of it
            await asyncio.sleep(self.pause_seconds)
        body = self.manifests[tag or reference]
        headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": str(Digest.of(body))}
        return web.Response(body=body, headers=headers)

    async def _fetch(self, request: web.Request) -> web.Response:
        size = 1 if request.match_info["digest"] == str(Digest.of(b"l")) else len(CONFIG)
        return web.json_response({"size": size, "present": size, "here": True})

    async def _put(self, request: web.Request) -> web.Response:
        tag = request.query["tag"]
        if self.working.setdefault(tag, request.host) != request.host:
            self.collisions.append(tag)
        await asyncio.sleep(self.pause_seconds)
        self.puts[tag] += 1
        self.put_by[request.host] += 1
        self.working.pop(tag, None)
        return web.json_response({})


class Seeder:
    def __init__(self, number: int, directory: Path, database: str, proxy: Address, rules: str = "") -> None:
        address = f"127.0.0.{20 + number}:{free_port()}"
        self.url = f"http://{address}"
        self.proxy = str(proxy)
        self._process: asyncio.subprocess.Process | None = None
        (directory / f"site{number}").mkdir()
        self._config = directory / f"seeder{number}.toml"
        self._config.write_text(
            f'[seeder]\nsite = "bj"\nlisten = "{address}"\nbittorrent = "127.0.0.{20 + number}:0"\n'
            f'site_blobs = "{directory}/site{number}"\nsite_proxies = ["http://{proxy}"]\ndatabase = "{database}"\n'
            f'takeover_after = "{TAKEOVER_SECONDS}s"\n{rules}'
        )
        self._log = directory / f"seeder{number}.log"

    async def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "seeder", "--config", str(self._config), stderr=log
            )
        async with asyncio.timeout(60), aiohttp.ClientSession() as client:
            while True:
                try:
                    async with client.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def seeders(
    stack: AsyncExitStack, proxy: Proxy, directory: Path, database: str, rules: str = ""
) -> tuple[Seeder, Seeder]:
    found = []
    for number in range(2):
        address = await stack.enter_async_context(serving(proxy.app(), Address(f"127.0.0.{30 + number}", 0)))
        found.append(Seeder(number, directory, database, address, rules))
        stack.push_async_callback(found[-1].kill)
    return found[0], found[1]


async def test_two_seeders_share_the_queue_and_when_one_is_killed_the_other_does_the_rest(
    stack: AsyncExitStack, postgres: Cluster, tmp_path: Path
) -> None:
    proxy = Proxy(200)
    rules = '[[sync]]\nrepositories = ["team/app"]\nto = ["bj"]\n'
    url = postgres.database()
    first, second = await seeders(stack, proxy, tmp_path, url, rules)
    await asyncio.gather(first.start(), second.start())
    await waiting.until(lambda: sum(proxy.puts.values()) >= 60 and len(proxy.put_by) == 2)
    await first.kill()
    proxy.killed(first.proxy)
    database = url.rpartition("/")[2]
    await waiting.until(lambda: postgres.sql("SELECT count(*) FROM tag_journal", database) == "200")
    assert proxy.collisions == []
    assert set(proxy.puts) == set(proxy.manifests)
    twice = [tag for tag, count in proxy.puts.items() if count > 1]
    assert len(twice) <= 4  # what the killed one had under way
    assert postgres.sql("SELECT count(*) FROM sync_tasks", database) == "0"
    assert proxy.put_by.keys() == {first.proxy, second.proxy}


async def test_a_preheat_goes_on_with_the_other_seeder_and_a_pause_holds_there(
    stack: AsyncExitStack, postgres: Cluster, tmp_path: Path
) -> None:
    first, second = await seeders(stack, Proxy(1), tmp_path, postgres.database())
    await first.start()
    await second.start()
    urls = (second.url, first.url)  # the one that does not lead is asked first
    nodes = {each: Site((), urls, each) for each in ("n1", "n2", "n3")}
    for site in nodes.values():
        stack.push_async_callback(site.close)

    async def beat() -> None:
        for site in nodes.values():
            try:
                await site.seeders.heartbeat(Heartbeat())
            except SourceError:
                pass  # one of them is dead

    async def orders(node_id: str, state: str | None = None, known: Orders | None = None) -> Orders:
        reports = [
            RuleReport(
                rule=order.rule,
                run=order.run,
                images=tuple(
                    ImageReport.model_validate({"reference": each.reference, "digest": each.digest, "state": state})
                    for each in order.images
                ),
            )
            for order in (known.orders if known is not None else ())
        ]
        report = Report(version="", wait_seconds=0, rules=tuple(reports))
        path = f"nodes/{node_id}/work"
        return await nodes[node_id].seeders.call("POST", path, Orders, report.model_dump(mode="json"))

    async def may_work(node_id: str) -> bool:
        return any(order.may_work for order in (await orders(node_id)).orders)

    operator = nodes["n1"].seeders
    await beat()
    await operator.order("PATCH", "nodes/n3", {"is_paused": True})
    rule = {"name": "x", "images": ["registry.example/team/app:t0"], "waves": {"size": 1}}
    begun = await operator.call("PUT", "preheats/x", PreheatStatus, rule)
    assert (begun.state, begun.problems) == ("running", ())
    await until(lambda: may_work("n1"), "n1 may work")
    assert not await may_work("n2")
    before = await orders("n1")
    assert (await operator.call("PATCH", "preheats/x", PreheatStatus, {"state": "paused"})).state == "paused"

    await first.kill()

    async def is_led() -> bool:
        await beat()
        try:
            await operator.call("GET", "preheats/x", PreheatStatus)
        except SourceError:  # nobody leads yet
            return False
        return True

    await until(is_led, "the other seeder leads")
    status = await operator.call("GET", "preheats/x", PreheatStatus)
    assert (status.run, status.state) == (begun.run, "paused")
    assert status.counts["paused"] == 1
    assert not await may_work("n1")
    assert [order.run for order in (await orders("n1")).orders] == [order.run for order in before.orders]
    await operator.order("PATCH", "preheats/x", {"state": "active"})
    for node_id in ("n1", "n2"):
        await until(partial(may_work, node_id), f"{node_id} may work")
        await orders(node_id, "present", before)

    async def is_done() -> bool:
        return (await operator.call("GET", "preheats/x", PreheatStatus)).is_confirmed

    await until(is_done, "all nodes but the paused one have confirmed")
