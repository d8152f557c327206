"""A node whose site starts after it: it is known as soon as the site listens, not a beat later."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from imagedist.agent.heartbeat import Vitals, keep_beating
from imagedist.agent.naming import former_node_id, node_id
from imagedist.config import AgentConfig, AgentTable
from imagedist.errors import SourceError
from imagedist.nodes import Heartbeat
from imagedist.overlay.store import OverlayStore
from imagedist.site.questions import Questions
from imagedist.site.seeders import Seeders
from imagedist.store.blobs import BlobStore


def test_a_node_is_called_as_its_file_says_or_by_its_host_and_what_is_unusual_of_its_peer_address() -> None:
    assert node_id(AgentTable(site_proxies=("http://p",), name="rack12-n1")) == "rack12-n1"
    host = socket.gethostname()
    for address, name in (
        ("0.0.0.0:6882", host),
        ("[::]:6882", host),
        ("0.0.0.0:7000", f"{host}-7000"),
        ("127.0.0.2:6882", f"{host}-127.0.0.2"),
        ("[fd00::1]:7000", f"{host}-fd00-1-7000"),
    ):
        table = AgentTable.model_validate({"site_proxies": ("http://p",), "bittorrent": address})
        assert node_id(table) == name
    assert former_node_id(AgentTable(site_proxies=("http://p",))) == f"{host}-0.0.0.0-6882"


class LateSeeders(Seeders):
    """Refuses connections at first."""

    def __init__(self) -> None:
        super().__init__((), Questions("n1", None, None), "n1")
        self.refused = 0
        self.heard = asyncio.Event()

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        if self.refused < 3:
            self.refused += 1
            raise SourceError("the seeder does not answer")
        self.heard.set()


async def test_a_site_that_starts_after_its_nodes_hears_of_them_before_the_next_beat(tmp_path: Path) -> None:
    stores = {"node_blobs": tmp_path / "blobs", "site_proxies": ["http://127.0.0.1:1"]}
    config = AgentConfig.model_validate({"agent": stores, "storage": {"root": tmp_path / "images"}})
    vitals = Vitals(config, BlobStore(tmp_path / "blobs"), OverlayStore(tmp_path / "images"))
    seeders = LateSeeders()
    beating = asyncio.create_task(keep_beating(seeders, vitals, every_seconds=3600, pause_seconds=0.001))
    try:
        async with asyncio.timeout(60):
            await seeders.heard.wait()
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
    assert seeders.refused == 3
