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

_CHUNK_BYTES = 1 << 20


async def seed(file: Path, torrent: Path, port: int) -> None:
    """Seeds a file by BitTorrent until killed, uncapped."""
    session = await LibtorrentSession.open(Address("127.0.0.1", port), role="seeder")
    await session.add(torrent.read_bytes(), file.parent, seeding=True)
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


async def by_swarm(torrent: Path, directory: Path, port: int) -> None:
    session = await LibtorrentSession.open(Address("127.0.0.2", 0))
    try:
        transfer = await session.add(torrent.read_bytes(), directory, peers=[("127.0.0.1", port)])
        await transfer.wait_complete()
    finally:
        await session.close()


async def by_http(file: Path, port: int, *, is_hashed: bool) -> None:
    """Into a file; a digest is computed or not."""
    digest = hashlib.sha256()
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/blob") as answer:
        with file.open("wb", buffering=0) as output:
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                output.write(chunk)
                if is_hashed:
                    digest.update(chunk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["seed", "serve", "swarm", "http", "http-hashed"])
    parser.add_argument("port", type=int)
    parser.add_argument("--file", type=Path, required=True, help="What is served, or where to write.")
    parser.add_argument("--torrent", type=Path)
    given = parser.parse_args()
    torrent: Path = given.torrent or given.file
    if given.what == "seed":
        asyncio.run(seed(given.file, torrent, given.port))
    elif given.what == "serve":
        asyncio.run(serve(given.file, given.port))
    else:
        if given.what == "swarm":
            rules.parse(torrent.read_bytes())  # imports and first calls are not the transfer's
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        if given.what == "swarm":
            asyncio.run(by_swarm(torrent, given.file.parent, given.port))
        else:
            asyncio.run(by_http(given.file, given.port, is_hashed=given.what == "http-hashed"))
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps({"seconds": took, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main()
