"""`make demo`: the main job on one machine, watched, measured, checked and cleaned up."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from imagedist.config import parse_rate, parse_size
from imagedist.demo.cluster import REGISTRY, Cluster, Node, check, left_behind, ramdisk
from imagedist.demo.container import run_container
from imagedist.demo.copy import copy_image
from imagedist.demo.image import NAME, build
from imagedist.demo.layout import BuiltImage, open_layout
from imagedist.demo.tree import expected_tree, node_tree
from imagedist.errors import ImagedistError, UnacceptableError
from imagedist.fetch.registry import RegistrySource
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import Descriptor
from imagedist.oci.reference import Reference
from imagedist.runtimes import survey

_PARALLEL_BLOBS = 3
"""A plain client's concurrent downloads: Docker's and containerd's default."""
_KILL_AT = 0.4
_ROOM = 20
"""Compressed size times this: site and five nodes hold a blob each (6), four an unpacked image of 3 each, and slack."""

Watch = Callable[[int, int], None]
"""Called with a node's index and the bytes it has so far."""


@dataclass
class Report:
    """What was seen, line by line and as JSON."""

    as_json: bool
    figures: dict[str, Any] = field(default_factory=dict)
    console: Console = field(default_factory=Console)

    def line(self, text: str) -> None:
        if not self.as_json:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


async def run_demo(
    image: str | None, directory: Path, size: str, rate: str, *, plain_http: bool = False, as_json: bool = False
) -> None:
    """The whole demo.

    Args:
        image: a real reference to distribute; None: one made from this machine's files.
        directory: scratch; the image stays in it for the next run, everything else is removed.

    Raises:
        InputError: a bad size, rate or reference. ImagedistError: a step failed or showed a wrong result.
    """
    started = time.monotonic()
    report = Report(as_json)
    parse_rate(rate)  # before anything starts
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if image is None:
        built, name = await _made_image(directory, parse_size(size), report), NAME
    else:
        built, name = await _real_image(Reference.parse(image), directory, plain_http, report)
    scratch = _scratch(directory, built)
    try:
        await _story(built, name, scratch, rate, report)
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
    processes, mounts = left_behind(scratch)
    report.figures |= {"left_processes": processes - _this(), "left_mounts": mounts}
    report.line(f"7 left behind    {processes - _this()} processes, {mounts} mounts")
    seconds = time.monotonic() - started
    report.figures["seconds"] = round(seconds, 1)
    report.line(f"done in {seconds:.0f} s. Next: `imagedist doctor`, `make test`, `make bench`")
    if as_json:
        print(json.dumps(report.figures))
    check(processes == _this() and mounts == 0, "something was left behind")


def _this() -> int:
    return 1 if "IMAGEDIST_DEMO" in os.environ else 0


def _scratch(directory: Path, built: BuiltImage) -> Path:
    """A tmpfs if it has room for every node's copy, so that what is shown is the work and not this machine's disk."""
    wanted_bytes = _ROOM * built.image.size_bytes
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * wanted_bytes:
        return memory / f"imagedist-demo-{os.getpid()}"
    return directory / f".run-{os.getpid()}"


async def _made_image(directory: Path, size_bytes: int, report: Report) -> BuiltImage:
    with _Bars(report, ["making the image"], size_bytes) as show:
        return await asyncio.to_thread(
            build, directory / "layout", size_bytes=size_bytes, progress=lambda done, total: show(0, done)
        )


async def _real_image(
    reference: Reference, directory: Path, plain_http: bool, report: Report
) -> tuple[BuiltImage, str]:
    layout = directory / f"image-{Digest.of(str(reference).encode()).short}"
    report.line(f"fetching {reference} once, into {layout}")
    await copy_image(reference, layout, plain_http=plain_http)
    return await asyncio.to_thread(open_layout, layout), f"{reference.repository}:{reference.tag or 'demo'}"


async def _story(built: BuiltImage, name: str, scratch: Path, rate: str, report: Report) -> None:
    layers = built.image.layers
    cores = len(os.sched_getaffinity(0))
    report.line(
        f"imagedist demo: {name}, {len(layers)} layers, {built.image.size_bytes / 1e6:.0f} MB; {cores} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )
    report.line(f"                 every link (registry, proxy, seeder, each node) carries {rate}; stores in {scratch}")
    expecting = asyncio.create_task(asyncio.to_thread(_expected, built))
    demo = _Demo(built, name, scratch, rate, report)
    report.line("1 distribution   nodes   straight from the registry      by imagedist    (the registry sent)")
    for nodes in (1, 2):
        async with demo.cluster(nodes) as cluster:
            await demo.distribute(cluster)
    async with demo.cluster(4) as cluster:
        await demo.distribute(cluster)
        await demo.unpack(cluster.nodes[0])
        await demo.pull_and_compare(cluster, await expecting)
        outcome = await demo.run(cluster.nodes[0])  # told in its turn
    async with demo.cluster(5) as cluster:
        await demo.fail(cluster)
    report.line(f"5 run            {outcome}")
    await demo.runtimes()


def _expected(built: BuiltImage) -> dict[str, Any] | str:
    try:
        return dict(expected_tree(built))
    except UnacceptableError as error:
        return str(error)


class _Demo:
    """The acts of the demo, each on a cluster, each ending in lines of the report."""

    def __init__(self, built: BuiltImage, name: str, scratch: Path, rate: str, report: Report) -> None:
        self._built = built
        self._scratch = scratch
        self._rate = rate
        self._report = report
        self._name = name
        self._reference = Reference.parse(f"{REGISTRY}/{name}")
        config = built.image.manifest.config
        self._blobs = list({blob.digest: blob for blob in (*built.image.manifest.layers, config)}.values())
        self._blob_bytes = sum(blob.size_bytes for blob in self._blobs)

    @asynccontextmanager
    async def cluster(self, nodes: int) -> AsyncIterator[Cluster]:
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        async with Cluster(self._scratch, self._built.layout, self._name, nodes, self._rate) as cluster:
            yield cluster

    async def distribute(self, cluster: Cluster) -> None:
        """The image's blobs to every node: straight from the registry, then through each node's agent."""
        count = len(cluster.nodes)
        plain = await self._fetch_to_all("plain", [cluster.registry] * count)
        sent_plain = (await cluster.stats())["bytes"]
        ours = await self._fetch_to_all("imagedist", [f"http://{node.mirror}" for node in cluster.nodes])
        after = await cluster.stats()
        sent_ours = after["bytes"] - sent_plain
        per_blob = {str(blob.digest): after["blobs"][str(blob.digest)]["gets"] - count for blob in self._blobs}
        again = [digest for digest, gets in per_blob.items() if gets != 1]
        check(not again, f"the registry was asked more than once for {', '.join(again)}")
        self._report.figures.setdefault("distribution", []).append(
            {
                "nodes": count,
                "plain_seconds": round(plain, 2),
                "plain_registry_bytes": sent_plain,
                "seconds": round(ours, 2),
                "registry_bytes": sent_ours,
            }
        )
        self._report.line(
            f"{count:>18}    {plain:>8.1f} s  {sent_plain / 1e6:>6.0f} MB      "
            f"{ours:>12.1f} s  {sent_ours / 1e6:>6.0f} MB   each blob once"
        )

    async def _fetch_to_all(self, title: str, urls: Sequence[str], watch: Watch | None = None) -> float:
        started = time.monotonic()
        names = [f"{title}: node {index + 1}" for index in range(len(urls))]
        with _Bars(self._report, names, self._blob_bytes) as show:

            def progress(index: int, done_bytes: int) -> None:
                show(index, done_bytes)
                if watch:
                    watch(index, done_bytes)

            async with asyncio.TaskGroup() as group:
                for index, url in enumerate(urls):
                    group.create_task(self._fetch(url, partial(progress, index)))
        return time.monotonic() - started

    async def _fetch(self, url: str, progress: Callable[[int], None]) -> None:
        """What a plain client does before it unpacks: the manifest, then the blobs, three at a time, checked."""
        done_bytes = 0
        slots = asyncio.Semaphore(_PARALLEL_BLOBS)
        source = RegistrySource(self._reference, url)

        async def blob(descriptor: Descriptor) -> None:
            nonlocal done_bytes
            async with slots:
                hasher = descriptor.digest.hasher()
                async with source.blob(self._reference, descriptor) as chunks:
                    async for chunk in chunks:
                        hasher.update(chunk)
                        done_bytes += len(chunk)
                        progress(done_bytes)
                check(descriptor.digest.matches(hasher), f"{descriptor.digest} arrived with wrong bytes")

        try:
            await source.manifest(self._reference)
            async with asyncio.TaskGroup() as group:
                for descriptor in self._blobs:
                    group.create_task(blob(descriptor))
        finally:
            await source.close()

    async def unpack(self, node: Node) -> None:
        """Serial against parallel, on one node, from its own cache."""
        seconds = {}
        for strategy in ("serial", "parallel"):
            root = self._scratch / strategy
            done = await self._pull(
                "--no-agent", "--via", f"http://{node.mirror}", "--root", str(root), "--strategy", strategy
            )
            seconds[strategy] = float(done["seconds"])
            await asyncio.to_thread(shutil.rmtree, root)
        cores = len(os.sched_getaffinity(0))
        self._report.figures["unpack"] = {"cores": cores, **seconds}
        self._report.line(
            f"2 unpack         serial {seconds['serial']:.1f} s, parallel {seconds['parallel']:.1f} s "
            f"on {cores} cores ({seconds['serial'] / seconds['parallel']:.1f}×)"
        )

    async def pull_and_compare(self, cluster: Cluster, expected: dict[str, Any] | str) -> None:
        """The image into every node's store, then every tree against the image."""
        async with asyncio.TaskGroup() as group:
            for node in cluster.nodes:
                group.create_task(self._pull("--socket", str(node.socket)))
        if isinstance(expected, str):
            self._report.line(f"3 correct        not compared: {expected}")
            return
        found = await asyncio.gather(
            *(asyncio.to_thread(node_tree, node.store, self._reference) for node in cluster.nodes)
        )
        equal = found.count(expected)
        ownership = "ownership too" if os.geteuid() == 0 else "ownership skipped: not root"
        self._report.figures["equal_trees"] = equal
        self._report.line(
            f"3 correct        {equal} of {len(cluster.nodes)} trees equal to the image: "
            f"{len(expected)} entries each, by content ({ownership})"
        )
        check(equal == len(cluster.nodes), "a node's tree differs from the image")

    async def fail(self, cluster: Cluster) -> None:
        """The seeder dies under four pulling nodes; then the registry, before a fifth one asks."""
        four = [f"http://{node.mirror}" for node in cluster.nodes[:4]]
        killed = asyncio.Event()
        killing: list[asyncio.Task[None]] = []
        fetched: dict[int, int] = {}

        def watch(index: int, done_bytes: int) -> None:
            fetched[index] = done_bytes
            if not killed.is_set() and sum(fetched.values()) >= _KILL_AT * self._blob_bytes * len(four):
                killed.set()
                killing.append(asyncio.create_task(cluster.kill("seeder")))

        seconds = await self._fetch_to_all("seeder killed", four, watch)
        await asyncio.gather(*killing)
        check(killed.is_set(), "the seeder was never killed")
        self._report.line(f"4 failure        seeder killed at 40 %: 4 of 4 nodes complete in {seconds:.1f} s")
        await cluster.kill("registry")
        alone = await self._fetch_to_all("registry stopped", [f"http://{cluster.nodes[4].mirror}"])
        self._report.line(f"                 registry stopped: a fifth node was served by the site in {alone:.1f} s")
        self._report.figures["failure"] = {
            "seeder_killed_seconds": round(seconds, 2),
            "registry_stopped_seconds": round(alone, 2),
        }

    async def run(self, node: Node) -> str:
        """A container from a node's store: what it printed, or how to get there."""
        outcome = await asyncio.to_thread(run_container, node.store, str(self._reference), self._scratch / "podman")
        self._report.figures["container"] = outcome
        return outcome

    async def runtimes(self) -> None:
        reports = await asyncio.to_thread(survey)
        self._report.figures["runtimes"] = [report.name for report in reports]
        title = "6 runtimes      "
        for report in reports:
            self._report.line(f"{title} {report.name} {report.version}: P2P {report.p2p};")
            self._report.line(f"                   parallel unpack {report.parallel_unpack}; {report.how}")
            title = "                "
        if not reports:
            self._report.line(f"{title} none on this machine: `imagedist pull` and `mount` work without")

    async def _pull(self, *arguments: str) -> dict[str, Any]:
        """`imagedist pull` as a user types it; returns its last event.

        Raises:
            ImagedistError: it failed; says why.
        """
        command = ["pull", str(self._reference), "--json", "--ramdisk", str(ramdisk()), *arguments]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "imagedist.demo.child",
            "imagedist",
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        except BaseException:
            process.terminate()
            await process.wait()
            raise
        if process.returncode:
            raise ImagedistError(f"`imagedist pull` failed: {errors.decode().strip()}")
        last: dict[str, Any] = json.loads(output.splitlines()[-1])
        return last


class _Bars:
    """A live bar per name while the context is open; nothing at all when nobody watches."""

    def __init__(self, report: Report, names: Sequence[str], total_bytes: int) -> None:
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=40),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        shown = report.console.is_terminal and not report.as_json
        self._progress = Progress(*columns, console=report.console, transient=True, disable=not shown)
        self._tasks: list[TaskID] = [self._progress.add_task(name, total=total_bytes) for name in names]

    def __enter__(self) -> Watch:
        self._progress.start()
        return lambda index, done: self._progress.update(self._tasks[index], completed=done)

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
