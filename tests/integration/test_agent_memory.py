"""The agent process's anonymous memory: at rest, and seeding as many torrents as it does by default."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aiohttp

from bench.peaks import anonymous_bytes
from imagedist.agent.client import AgentClient
from imagedist.config import SeedingTable
from tests.support.ports import free_port
from tests.support.site import Site
from tests.support.waiting import until

AT_REST_BYTES, SEEDING_BYTES = 90_000_000, 160_000_000
BLOBS = SeedingTable().max_torrents
AGENT = """\
[agent]
listen = "127.0.0.1:{port}"
bittorrent = "127.0.0.77:0"
socket = "{home}/agent.sock"
site_proxies = ["http://{site.proxy}"]
site_seeders = ["http://{site.seeder}"]
node_blobs = "{home}/blobs"
[storage]
root = "{home}/storage"
[unpack]
ramdisk = "{home}/ramdisk"
ramdisk_budget = "16MiB"
"""


async def test_an_agent_stays_small(tmp_path: Path) -> None:
    socket, port = tmp_path / "agent.sock", free_port()
    async with Site(tmp_path / "site", swarm_min_size=1) as site, aiohttp.ClientSession() as client:
        config = tmp_path / "agent.toml"
        config.write_text(AGENT.format(port=port, home=tmp_path, site=site))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "imagedist", "agent", "--config", str(config), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until(socket.exists)
            at_rest_bytes = anonymous_bytes(process.pid)
            few = asyncio.Semaphore(8)

            async def fetch() -> None:
                digest = site.upstream.add_blob(os.urandom(20_000))
                async with few, client.get(f"http://127.0.0.1:{port}/v2/app/blobs/{digest}") as response:
                    assert len(await response.read()) == 20_000

            await asyncio.gather(*(fetch() for _ in range(BLOBS)))
            agent = AgentClient(socket)
            await until(lambda: len(agent.transfers().transfers) == BLOBS)
            seeding_bytes = anonymous_bytes(process.pid)
        finally:
            process.terminate()
            await process.wait()
    assert 0 < at_rest_bytes <= AT_REST_BYTES
    assert 0 < seeding_bytes <= SEEDING_BYTES
