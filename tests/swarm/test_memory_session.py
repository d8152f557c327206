"""The twin's faults: a swarm in which nothing moves."""

from __future__ import annotations

import asyncio
from pathlib import Path

from imagedist.config import Address
from imagedist.swarm.memory_session import MemorySwarm
from tests.swarm.blobs import make_blob, make_directory


async def test_a_stalled_swarm_moves_nothing_until_it_resumes(tmp_path: Path) -> None:
    blob = make_blob(tmp_path / "seed", 200_000)
    swarm = MemorySwarm()
    seed, node = [await swarm.open(Address("127.0.0.1", 0)) for _ in range(2)]
    await seed.add(blob.torrent, tmp_path / "seed", seeding=True)
    swarm.stall()
    transfer = await node.add(blob.torrent, make_directory(tmp_path / "node"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert transfer.status().present_bytes == 0
    swarm.resume()
    await transfer.wait_complete()
    assert transfer.status().received_bytes["peer"] == 200_000
    await node.close()
    await seed.close()
