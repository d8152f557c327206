"""Several seeders of one site share its blobs, and one may die. Real processes, real nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from imagedist.config import Address
from imagedist.swarm.libtorrent_session import LibtorrentSession
from registry_proxy.replicas import ranked
from registry_proxy.seeds import Seeds
from tests.support.ports import free_port
from tests.swarm.blobs import Blob, make_blob, make_directory


class Seeder:
    """A seeder's process; all of a test share one blob store."""

    def __init__(self, number: int, directory: Path) -> None:
        address, peers = (f"127.0.0.{10 + number}:{free_port()}" for _ in range(2))
        self.url = f"http://{address}"
        self.process: asyncio.subprocess.Process | None = None
        self._config = directory / f"seeder{number}.toml"
        self._config.write_text(
            f'[seeder]\nsite = "test"\nlisten = "{address}"\nbittorrent = "{peers}"\nsite_blobs = "{directory}/site"\n'
            f'database = "sqlite:///{directory}/seeder{number}.db"\n'
        )

    async def start(self, client: aiohttp.ClientSession) -> None:
        command = [sys.executable, "-m", "seeder", "--config", str(self._config)]
        self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        await until(lambda: self.is_ready(client))

    async def is_ready(self, client: aiohttp.ClientSession) -> bool:
        try:
            async with client.get(f"{self.url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def seeds(self, client: aiohttp.ClientSession) -> set[str]:
        async with client.get(f"{self.url}/site/v1/seeds") as response:
            return {seed["digest"] for seed in (await response.json())["seeds"]}

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def until(holds: Callable[[], object]) -> None:
    """The test's own timeout is the bound."""
    while True:
        held = holds()
        if await held if asyncio.iscoroutine(held) else held:
            return
        await asyncio.sleep(0.05)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


@asynccontextmanager
async def node(host: str, blob: Blob, seeders: list[Seeder], directory: Path) -> AsyncIterator[LibtorrentSession]:
    session = await LibtorrentSession.open(Address(host, 0))
    trackers = [f"{seeder.url}/announce" for seeder in seeders]
    try:
        await session.add(blob.torrent, make_directory(directory), trackers=trackers)
        yield session
    finally:
        await session.close()


async def download(host: str, blob: Blob, seeders: list[Seeder], directory: Path) -> None:
    async with node(host, blob, seeders, directory) as session:
        transfer = session.get(blob.digest)
        assert transfer
        await transfer.wait_complete()
    assert (directory / blob.digest.hex).read_bytes() == blob.content


async def test_each_blob_has_two_seeders_and_when_one_is_killed_the_third_takes_its_part(
    client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    blob = make_blob(tmp_path / "site" / "blobs" / "sha256", 3_000_000)
    torrents = make_directory(tmp_path / "site" / "torrents")
    (torrents / f"{blob.digest.hex}.torrent").write_bytes(blob.torrent)
    seeders = [Seeder(number, tmp_path) for number in range(3)]
    async with AsyncExitStack() as stack:
        for seeder in seeders:
            stack.push_async_callback(seeder.kill)
        await asyncio.gather(*(seeder.start(client) for seeder in seeders))
        proxy = Seeds([seeder.url for seeder in seeders], None, torrents, look_seconds=0.1)
        stack.push_async_callback(proxy.close)
        proxy.start()
        by_url = {seeder.url: seeder for seeder in seeders}
        first, second, third = (by_url[url] for url in ranked(blob.digest, by_url))

        async def seeding(*expected: Seeder) -> bool:
            """Whether these and no others that live seed it."""
            alive = [seeder for seeder in seeders if seeder.process and seeder.process.returncode is None]
            return {each for each in alive if await each.seeds(client)} == set(expected)

        await until(lambda: seeding(first, second))
        await download("127.0.0.31", blob, seeders, tmp_path / "before")
        await first.kill()
        await until(lambda: seeding(second, third))
        await download("127.0.0.32", blob, seeders, tmp_path / "without")
        await second.kill()
        await download("127.0.0.33", blob, seeders, tmp_path / "alone")
        await asyncio.gather(first.start(client), second.start(client))
        await until(lambda: seeding(first, second))
        await download("127.0.0.34", blob, seeders, tmp_path / "again")
