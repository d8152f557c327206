"""What thousands of nodes cost one seeder: a heartbeat every few seconds each, and a long poll each, on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from bench.machine import described
from bench.peaks import anonymous_bytes
from bench.processes import daemon, succeeds
from bench.result import ImageFacts, Result, Verdict
from imagedist.nodes import Disk, Heartbeat
from imagedist.oci.digest import Digest
from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import ImageReport, LayerReport, Orders, Report, RuleReport, Wanted
from seeder.preheat.run import Run

_POLL_SECONDS = 20.0
_JOIN_SECONDS = 20.0
"""Over which the nodes come, so that their first requests are no burst."""
_LAYERS = 8
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_WANTED = tuple(
    Wanted(reference=f"registry.example/base/image-{number}:1", digest=Digest.of(f"image {number}".encode()))
    for number in range(3)
)
_REPORT = Report(wait_seconds=_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Crowd:
    """One measurement.

    Attributes:
        cpu: of one core, user and system, while everything is quiet. start_cpu: while the nodes come.
        anonymous_bytes: the most that was seen.
        answered: requests in ``seconds``, by kind and status.
        confirmed: nodes that have the rule's images, as the seeder says at the end.
    """

    nodes: int
    seconds: float
    cpu: float
    start_cpu: float
    anonymous_bytes: int
    answered: dict[str, int]
    confirmed: int
    heartbeat_ms: float
    """Median of one heartbeat's answer."""


def run(nodes: int, seconds: float, beat_seconds: float) -> Result:
    """``measure`` as a result. Raises as that."""
    load = os.getloadavg()[0]
    found = asyncio.run(measure(nodes, seconds, beat_seconds))
    figures = (
        ("seeder's CPU, of one core", 100 * found.cpu, "%", "at most 50"),
        ("the same while they came", 100 * found.start_cpu, "%", ""),
        ("anonymous memory at most", found.anonymous_bytes / 1e6, "MB", "at most 300"),
        ("a heartbeat's answer, median", found.heartbeat_ms, "ms", ""),
        ("nodes that confirmed their preheat", found.confirmed, f"of {found.nodes}", "all"),
    )
    return described(
        "crowd",
        Path("/dev/shm"),
        ImageFacts(name="none", manifest_digest="", layers=_LAYERS, compressed_bytes=0),
        {
            "registry": "none",
            "nodes": f"{nodes}, a heartbeat each {beat_seconds:g} s and a long poll of {_POLL_SECONDS:g} s each",
            "answered": ", ".join(f"{count} {what}" for what, count in sorted(found.answered.items())),
            "load_at_start": f"{load:.2f}",
        },
        verdicts=[Verdict(what=what, value=value, unit=unit, aim=aim) for what, value, unit, aim in figures],
    )


async def measure(nodes: int, seconds: float, beat_seconds: float) -> Crowd:
    """Nodes that keep a rule of three images with eight layers each."""
    with TemporaryDirectory() as directory, _seeder(Path(directory)) as (url, pid):
        crowd = _Nodes(url, nodes, beat_seconds)
        tasks = [asyncio.create_task(crowd.node(number)) for number in range(nodes)]
        try:
            begun = _cpu_seconds(pid)
            joined = time.monotonic()
            await asyncio.sleep(_JOIN_SECONDS + beat_seconds)
            start_cpu = (_cpu_seconds(pid) - begun) / (time.monotonic() - joined)
            crowd.answered.clear()
            crowd.took.clear()
            peak_bytes, before, at = anonymous_bytes(pid), _cpu_seconds(pid), time.monotonic()
            while time.monotonic() < at + seconds:
                await asyncio.sleep(min(1.0, seconds))
                peak_bytes = max(peak_bytes, anonymous_bytes(pid))
            took = time.monotonic() - at
            cpu = (_cpu_seconds(pid) - before) / took
            answered = dict(crowd.answered)
            heartbeat_ms = sorted(crowd.took)[len(crowd.took) // 2] * 1e3 if crowd.took else float("nan")
            confirmed = await crowd.confirmed()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await crowd.close()
        return Crowd(nodes, took, cpu, start_cpu, peak_bytes, answered, confirmed, heartbeat_ms)


class _Nodes:
    def __init__(self, url: str, count: int, beat_seconds: float) -> None:
        self._url = url
        self._count = count
        self._beat_seconds = beat_seconds
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self.answered: Counter[str] = Counter()
        self.took: list[float] = []

    async def node(self, number: int) -> None:
        await asyncio.sleep(_JOIN_SECONDS * number / self._count)
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
            await asyncio.sleep(self._beat_seconds)

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
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
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
    is_ready = [sys.executable, "-c", f"import urllib.request as u; u.urlopen('{url}/readyz')"]
    with daemon(command, directory / "seeder.log", lambda: succeeds(is_ready)) as process:
        yield url, process


def _cpu_seconds(process: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15 of ``stat``)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
