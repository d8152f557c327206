"""How well a node keeps to its caps: what the swarm and HTTP bring and give beside what was allowed, on loopback."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from bench.in_turn import Say
from bench.machine import Start, described
from bench.places import place
from bench.preflight import check_disk, need
from bench.result import ImageFacts, Keep, Result, Verdict
from imagedist.agent.limits import NodeLimits
from imagedist.config import Address, LimitsTable
from imagedist.distribution.backend import Target
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.service import serving
from imagedist.site import Site
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.swarm.libtorrent_transfer import LibtorrentTransfer
from imagedist.swarm.torrent import build

_SETTLE_SECONDS = 4.0
"""libtorrent lets through at once what it did not use in up to three seconds before."""
_CHUNK_BYTES = 64 << 10
_FILES = 4
"""Of which two are written as their bytes come."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: bytes per second, and for how long each way is measured."""

    upload: int
    download: int
    seconds: float
    settle_seconds: float = _SETTLE_SECONDS

    @property
    def size_bytes(self) -> int:
        """Of the files that flow: twice what may."""
        chunks = int(max(self.upload, self.download) * (self.seconds + self.settle_seconds) * 1.5) // _CHUNK_BYTES + 1
        return chunks * _CHUNK_BYTES


def run(scale: Scale, store: Path, say: Say, keep: Keep) -> Result:
    """Each way alone, then all at once: a node with the caps, and peers and a proxy without any.

    Args:
        store: where the files are made and removed.

    Raises:
        InputError: too little memory or disk, or another benchmark is there.
    """
    need("caps", memory_bytes=2 * scale.size_bytes)
    check_disk(store, _FILES * scale.size_bytes, "blobs", "such caps need {}; take lower ones, or fewer --seconds")
    start = Start.now()
    verdicts: list[Verdict] = []
    with place(store, None) as where:

        def known() -> Result:
            return described(
                "caps",
                where.directory,
                ImageFacts(name="blobs of one letter", manifest_digest="", layers=1, compressed_bytes=0),
                {"registry": "none, on loopback", "seconds": f"{scale.seconds:g} each way"},
                verdicts=verdicts,
                start=start,
            )

        for ways in (("upload",), ("swarm",), ("http",), ("upload", "swarm", "http")):
            say(f"for {scale.settle_seconds + scale.seconds:g} s: {', '.join(ways)}")
            with where.fresh() as directory:
                rates = asyncio.run(_rates(scale, ways, directory))
            verdicts += _verdicts(scale, ways, rates)
            keep(known())
        return known()


async def _rates(scale: Scale, ways: tuple[str, ...], directory: Path) -> Mapping[str, float]:
    """Bytes per second by way, of payload."""
    async with _node(scale, ways, directory) as moved:
        await asyncio.sleep(scale.settle_seconds)
        before, begun = Counter(moved()), time.monotonic()
        await asyncio.sleep(scale.seconds)
        after, took = Counter(moved()), time.monotonic() - begun
    return {way: (after[way] - before[way]) / took for way in ("upload", "swarm", "http")}


def _verdicts(scale: Scale, ways: tuple[str, ...], rates: Mapping[str, float]) -> list[Verdict]:
    together = " beside a download" if len(ways) > 1 else ""
    found = [(f"to peers{together}", scale.upload, rates["upload"])] if "upload" in ways else []
    if len(ways) > 1:
        found.append(("from peers and by HTTP together", scale.download, rates["swarm"] + rates["http"]))
    elif "upload" not in ways:
        found.append(("from peers" if ways == ("swarm",) else "by HTTP", scale.download, rates[ways[0]]))
    return [Verdict(what=what, value=rate / 1e6, unit="MB/s", aim=f"{cap / 1e6:g}") for what, cap, rate in found]


@asynccontextmanager
async def _node(scale: Scale, ways: tuple[str, ...], directory: Path) -> AsyncIterator[Callable[[], Mapping[str, int]]]:
    """Yields what has moved so far, by way."""
    upload, download, size_bytes = scale.upload, scale.download, scale.size_bytes
    moved: Counter[str] = Counter()
    async with AsyncExitStack() as stack:

        async def opened(host: str, upload: int | None = None, download: int | None = None) -> LibtorrentSession:
            session = await LibtorrentSession.open(Address(host, 0), upload=upload, download=download)
            stack.push_async_callback(session.close)
            return session

        node = await opened("127.0.0.2", upload, download)
        peer = await opened("127.0.0.3")
        transfers: dict[str, LibtorrentTransfer] = {}
        for way, giver, taker in (("upload", node, peer), ("swarm", peer, node)):
            if way in ways:
                (directory / way).mkdir()
                given, torrent = await asyncio.to_thread(_blob, directory, size_bytes, way)
                await giver.add(torrent, given, seeding=True)
                transfers[way] = await taker.add(torrent, directory / way, peers=[giver.address])
        rate = ChangingRate(download)

        def received() -> Mapping[str, int]:
            by_swarm = transfers["swarm"].status().present_bytes if "swarm" in ways else 0
            return {"proxy": moved["http"], "peer": by_swarm}

        limits = NodeLimits(LimitsTable(upload=upload, download=download), node, rate, received)
        tasks = [asyncio.create_task(limits.keep())]
        if "http" in ways:
            proxy = await stack.enter_async_context(serving(_endless(size_bytes), Address("127.0.0.1", 0)))
            site = Site([f"http://{proxy}"], [], "node", rate=rate)
            stack.push_async_callback(site.close)
            tasks.append(asyncio.create_task(_by_http(site, size_bytes, moved)))

        def now() -> Mapping[str, int]:
            # Of this very moment; the session's own status is half a second old, and counts whole pieces.
            swarm = {way: transfer.handle.status().total_payload_download for way, transfer in transfers.items()}
            return {**moved, **swarm}

        try:
            yield now
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _blob(directory: Path, size_bytes: int, way: str) -> tuple[Path, bytes]:
    folder = directory / f"{way}-seed"
    folder.mkdir()
    content = way.encode().ljust(_CHUNK_BYTES, b".") * (size_bytes // _CHUNK_BYTES)
    digest = Digest.of(content)
    (folder / digest.hex).write_bytes(content)
    return folder, build(folder / digest.hex, digest)


def _endless(size_bytes: int) -> web.Application:
    async def blob(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(size_bytes)})
        await response.prepare(request)
        with suppress(ConnectionResetError):
            for _ in range(size_bytes // _CHUNK_BYTES):
                await response.write(bytes(_CHUNK_BYTES))
        return response

    app = web.Application()
    app.router.add_get("/v2/app/blobs/{digest}", blob)
    return app


async def _by_http(site: Site, size_bytes: int, moved: Counter[str]) -> None:
    def count(chunk: bytes | memoryview) -> None:
        moved["http"] += len(chunk)

    with ThreadPoolExecutor(1) as threads, suppress(ImagedistError):
        await site.deliver(Target(None, "app"), Digest.of(b""), size_bytes, 0, count, threads)
