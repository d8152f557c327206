"""An agent on sockets that systemd holds: pulls that begin while it restarts wait in them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp

from imagedist.agent.app import started
from imagedist.agent.client import AgentClient
from imagedist.config import AgentConfig


async def test_passed_sockets_are_served_instead_of_the_configured_ones_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    config = AgentConfig.model_validate(
        {
            "agent": {
                "listen": "127.0.0.1:1",  # not to be listened on
                "bittorrent": "127.0.0.80:0",
                "socket": tmp_path / "elsewhere.sock",
                "site_proxies": ["http://127.0.0.1:1"],
                "node_blobs": tmp_path / "blobs",
                "drain": "1s",
            },
            "storage": {"root": tmp_path / "storage", "durability": "none", "used_by": []},
            "unpack": {"ramdisk": tmp_path / "ramdisk", "workers": 1, "nice": 0},
        }
    )
    with socket.create_server(("127.0.0.1", 0)) as held_tcp, socket.socket(socket.AF_UNIX) as held_unix:
        held_unix.bind(str(path))
        held_unix.listen()
        async with started(config, [held_tcp.dup(), held_unix.dup()]) as mirror:
            assert mirror == f"127.0.0.1:{held_tcp.getsockname()[1]}"
            async with aiohttp.ClientSession() as client, client.get(f"http://{mirror}/livez") as response:
                assert response.status == 200
            status = await asyncio.to_thread(AgentClient(path).status)
            assert status.mirror == mirror
        assert path.exists()  # it is systemd's
        assert not (tmp_path / "elsewhere.sock").exists()
        waiting = socket.create_connection(held_tcp.getsockname())
        waiting.close()  # nobody refused it
