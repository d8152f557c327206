"""What thousands of nodes cost one seeder: a heartbeat every few seconds each, and a long poll each, on loopback."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.account import ProcessAccount
from bench.directories import short_directory
from bench.in_turn import Say
from bench.machine import Start, described
from bench.peaks import anonymous_bytes
from bench.preflight import need
from bench.processes import daemon
from bench.registry import answers, free_port
from bench.result import ImageFacts, Keep, Result, Verdict
from bench.statistics import median
from imagedist.nodes import Disk, Heartbeat
from imagedist.oci.digest import Digest
from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import ImageReport, LayerReport, Orders, Report, RuleReport, Wanted
from seeder.preheat.run import Run

_POLL_SECONDS = 20.0
_LOOK_SECONDS = 1.0
_NODE_BYTES = 300_000
"""In the seeder and here together."""
_LAYERS = 8
_WANTED = tuple(
    Wanted(reference=f"registry.example/base/image-{number}:1", digest=Digest.of(f"image {number}".encode()))
    for number in range(3)
)
_REPORT = Report(wait_seconds=_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. ``join_seconds``: over which the nodes come, so their first requests are no burst."""

    nodes: int
    seconds: float
    beat_seconds: float = 10.0
    join_seconds: float = 20.0


QUICK = Scale(500, 15.0)


def run(scale: Scale, say: Say, keep: Keep) -> Result:
    """Nodes that keep a rule of three images with eight layers each.

    Raises:
        InputError: too little memory. ImagedistError: the seeder did not start.
    """
    need("a crowd", memory_bytes=scale.nodes * _NODE_BYTES)
    with short_directory() as directory, _seeder(directory) as (url, process):
        return asyncio.run(_measure(scale, directory, url, process, say, keep))


async def _measure(scale: Scale, directory: Path, url: str, process: int, say: Say, keep: Keep) -> Result:
    start, account = Start.now(), ProcessAccount()
    account.roots.add(process)
    verdicts: dict[str, Verdict] = {}
    crowd = _Nodes(url, scale)

    def found(what: str, value: float, unit: str, aim: str = "") -> None:
        verdicts[what] = Verdict(what=what, value=value, unit=unit, aim=aim)

    def known() -> Result:
        return described(
            "crowd",
            directory,
            ImageFacts(name="none", manifest_digest="", layers=_LAYERS, compressed_bytes=0),
            {
                "registry": "none",
                "nodes": f"{scale.nodes}, a heartbeat each {scale.beat_seconds:g} s and a long poll of "
                f"{_POLL_SECONDS:g} s each",
                "answered": ", ".join(f"{count} {what}" for what, count in sorted(crowd.answered.items())),
            },
            verdicts=tuple(verdicts.values()),
            start=start,
        )

    say(f"{scale.nodes} nodes come in {scale.join_seconds + scale.beat_seconds:g} s")
    tasks = [asyncio.create_task(crowd.node(number)) for number in range(scale.nodes)]
    try:
        before, at = account.cpu_seconds(), time.monotonic()
        await asyncio.sleep(scale.join_seconds + scale.beat_seconds)
        came = (account.cpu_seconds() - before) / (time.monotonic() - at)
        found("seeder's CPU while they came, of one core", 100 * came, "%")
        keep(known())
        say(f"quiet for {scale.seconds:g} s")
        crowd.answered.clear()
        crowd.took.clear()
        peak_bytes, before, at = anonymous_bytes(process), account.cpu_seconds(), time.monotonic()
        while (took := time.monotonic() - at) < scale.seconds:
            await asyncio.sleep(min(_LOOK_SECONDS, scale.seconds - took))
            peak_bytes = max(peak_bytes, anonymous_bytes(process))
            cpu = (account.cpu_seconds() - before) / (time.monotonic() - at)
            found("seeder's CPU, of one core", 100 * cpu, "%", "at most 50")
            found("anonymous memory at most", peak_bytes / 1e6, "MB", "at most 300")
            if crowd.took:
                found("a heartbeat's answer, median", 1e3 * (median(crowd.took) or 0.0), "ms")
            keep(known())
        found("nodes that confirmed their preheat", await crowd.confirmed(), f"of {scale.nodes}", "all")
        return known()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await crowd.close()


class _Nodes:
    def __init__(self, url: str, scale: Scale) -> None:
        self._url = url
        self._scale = scale
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self.answered: Counter[str] = Counter()
        self.took: list[float] = []

    async def node(self, number: int) -> None:
        await asyncio.sleep(self._scale.join_seconds * number / self._scale.nodes)
        await asyncio.gather(self._beat(number), self._poll(number))

    async def confirmed(self) -> int:
        async with self._session.get(f"{self._url}/site/v1/preheats/crowd") as answer:
            return int((await answer.json())["counts"].get("done", 0))

    async def close(self) -> None:
        await self._session.close()

    async def _beat(self, number: int) -> None:
        disk = Disk(total_bytes=1 << 40, free_bytes=1 << 39, used_bytes=1 << 35)
        body = Heartbeat(
            version="0.1.0",
            versions={"kernel": "6.1.0", "python": "3.11.2", "machine": "x86_64"},
            labels={"zone": f"z{number % 4}", "rack": f"r{number % 40}"},
            peer_port=6882,
            disks={"blobs": disk, "storage": disk},
            cached_blobs=40,
            unpacked_images=20,
            image_names=tuple(f"registry.example/team/application-{each}:1.{each}" for each in range(20)),
        ).model_dump_json()
        while True:
            begun = time.monotonic()
            try:
                async with self._session.put(f"{self._url}/site/v1/nodes/node-{number}", data=body) as answer:
                    self.answered[f"heartbeat {answer.status}"] += 1
                    self.took.append(time.monotonic() - begun)
            except aiohttp.ClientError:
                self.answered["heartbeat failed"] += 1
            await asyncio.sleep(self._scale.beat_seconds)

    async def _poll(self, number: int) -> None:
        report = _REPORT
        while True:
            try:
                url = f"{self._url}/site/v1/nodes/node-{number}/work"
                async with self._session.post(url, data=report.model_dump_json()) as answer:
                    self.answered[f"poll {answer.status}"] += 1
                    orders = Orders.model_validate_json(await answer.read())
            except aiohttp.ClientError:
                self.answered["poll failed"] += 1
                await asyncio.sleep(1)
                continue
            report = _report(orders)


def _report(orders: Orders) -> Report:
    """All of it is there."""
    layers = tuple(
        LayerReport(digest=Digest.of(f"layer {number}".encode()), size_bytes=50 << 20, is_cached=True, is_unpacked=True)
        for number in range(_LAYERS)
    )
    rules = tuple(
        RuleReport(
            rule=order.rule,
            run=order.run,
            images=tuple(
                ImageReport(reference=each.reference, digest=each.digest, state="present", layers=layers)
                for each in order.images
            ),
        )
        for order in orders.orders
    )
    return Report(version=orders.version, wait_seconds=_POLL_SECONDS, rules=rules)


@contextmanager
def _seeder(directory: Path) -> Iterator[tuple[str, int]]:
    """A seeder with one rule; its URL and process."""
    port = free_port()
    url, database = f"http://127.0.0.1:{port}", directory / "seeder.db"
    rule = PreheatRule(name="crowd", images=tuple(each.reference for each in _WANTED))
    run = Run(rule=rule, started_at=time.time(), images=_WANTED)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE preheats (name VARCHAR(64) PRIMARY KEY, run TEXT NOT NULL)")
        connection.execute("INSERT INTO preheats VALUES (?, ?)", ("crowd", run.model_dump_json()))
    connection.close()
    config = directory / "seeder.toml"
    config.write_text(
        f'[seeder]\nsite = "crowd"\nlisten = "127.0.0.1:{port}"\nbittorrent = "127.0.0.1:0"\n'
        f'site_blobs = "{directory}"\ndatabase = "sqlite:///{database}"\n'
    )
    command = [sys.executable, "-m", "seeder", "--config", str(config)]
    with daemon(command, directory / "seeder.log", lambda: answers(f"{url}/readyz")) as process:
        yield url, process
