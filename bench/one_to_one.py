"""One peer of the swarm beside one HTTP client: ``python -m bench.one_to_one swarm|http|http-hashed …`` prints JSON.

Run as a process of its own, so that its CPU time is the leecher's alone. ``bench.transfer`` starts both ends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import resource
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from imagedist.config import Address
from imagedist.swarm import torrent as rules
from imagedist.swarm.libtorrent_session import LibtorrentSession
from seeder.uploads.session import UploadSession

_CHUNK_BYTES = 1 << 20


async def give_as_node(file: Path, torrent: Path, port: int) -> None:
    """Gives a file away as a node does, until killed, uncapped."""
    session = await LibtorrentSession.open(Address("127.0.0.1", port))
    await session.add(torrent.read_bytes(), file.parent, seeding=True)
    await asyncio.Event().wait()


async def give_as_seeder(file: Path, torrent: Path, port: int) -> None:
    """The same as the site's seeder does."""
    session = await UploadSession.open(Address("127.0.0.1", port))
    session.add(rules.parse(torrent.read_bytes()), file.parent)
    await asyncio.Event().wait()


async def serve(file: Path, port: int) -> None:
    """The same file by aiohttp until killed."""
    app = web.Application()

    async def blob(request: web.Request) -> web.FileResponse:
        return web.FileResponse(file)

    app.router.add_get("/blob", blob)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def by_swarm(torrent: Path, directory: Path, port: int) -> dict[str, float]:
    """A session runs for ever on a node: opening and closing it are not the transfer's."""
    session = await LibtorrentSession.open(Address("127.0.0.2", 0))
    try:
        with _Figures() as figures:
            transfer = await session.add(torrent.read_bytes(), directory)
            transfer.handle.connect_peer(("127.0.0.1", port))  # at once, as after a tracker's answer
            await transfer.wait_complete()
    finally:
        await session.close()
    return figures.figures


async def by_http(file: Path, port: int, *, is_hashed: bool) -> dict[str, float]:
    """Into a file; a digest is computed or not."""
    digest = hashlib.sha256()
    async with aiohttp.ClientSession() as client:
        with _Figures() as figures, file.open("wb", buffering=0) as output:
            async with client.get(f"http://127.0.0.1:{port}/blob") as answer:
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    output.write(chunk)
                    if is_hashed:
                        digest.update(chunk)
    return figures.figures


class _Figures:
    """Wall and CPU time of its block, all threads of this process."""

    def __enter__(self) -> _Figures:
        self._before, self._began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        return self

    def __exit__(self, *raised: object) -> None:
        took, after = time.perf_counter() - self._began, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - self._before.ru_utime - self._before.ru_stime
        self.figures = {"seconds": took, "cpu_seconds": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["node", "seeder", "serve", "swarm", "http", "http-hashed"])
    parser.add_argument("port", type=int)
    parser.add_argument("--file", type=Path, required=True, help="What is served, or where to write.")
    parser.add_argument("--torrent", type=Path)
    given = parser.parse_args()
    torrent: Path = given.torrent or given.file
    if given.what == "node":
        asyncio.run(give_as_node(given.file, torrent, given.port))
    elif given.what == "seeder":
        asyncio.run(give_as_seeder(given.file, torrent, given.port))
    elif given.what == "serve":
        asyncio.run(serve(given.file, given.port))
    elif given.what == "swarm":
        print(json.dumps(asyncio.run(by_swarm(torrent, given.file.parent, given.port))))
    else:
        print(json.dumps(asyncio.run(by_http(given.file, given.port, is_hashed=given.what == "http-hashed"))))


if __name__ == "__main__":
    main()
