"""A whole site in one process: an upstream registry, a proxy, a seeder and agents, real sockets on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from imagedist.agent.app import started
from imagedist.agent.client import AgentClient
from imagedist.config import Address, AgentConfig, ProxyConfig, SeederConfig
from imagedist.service import ServerTls, serving
from registry_proxy.app import create_app as create_proxy
from seeder.app import create_app as create_seeder
from tests.support import layers
from tests.support.ports import free_port
from tests.support.postgres import site_database
from tests.support.registry import FaultyRegistry

ANY = "127.0.0.1:0"
REGISTRY = "registry.example"


class Site:
    """Use as an async context manager; ``agent`` starts a node. ``stop_*`` takes a part away.

    Args:
        upstream_settings: of the upstream's table, besides its address.
    """

    def __init__(
        self, directory: Path, upstream_settings: dict[str, object] | None = None, **proxy_settings: object
    ) -> None:
        self._directory = directory
        self._upstream_settings = upstream_settings or {}
        self._proxy_settings = proxy_settings
        self._stack = AsyncExitStack()
        self._upstream_stack = AsyncExitStack()
        self._proxy_stack = AsyncExitStack()
        self._seeder_stack = AsyncExitStack()
        self._agents = 0
        self.proxy_tls: ServerTls | None = None
        self.seeder_tables: dict[str, object] = {}
        self.upstream = FaultyRegistry()

    async def __aenter__(self) -> Site:
        await self._upstream_stack.enter_async_context(self.upstream)
        blobs = self._directory / "site"
        blobs.mkdir(parents=True)
        proxy_port = free_port()
        seeder = SeederConfig.model_validate(
            {
                "seeder": {
                    "site": "test",
                    "listen": ANY,
                    "bittorrent": "127.0.0.10:0",
                    "site_blobs": blobs,
                    "database": site_database(self._directory),
                    "site_proxies": [f"http://127.0.0.1:{proxy_port}"],
                },
                **self.seeder_tables,
            }
        )
        self.seeder = await self._serve(self._seeder_stack, create_seeder(seeder))
        # The first node that wants a blob streams it, all others go by the swarm.
        settings = {
            "listen": ANY,
            "site_blobs": blobs,
            "site_seeders": [f"http://{self.seeder}"],
            "first_wave_nodes": 1,
        }
        proxy = ProxyConfig.model_validate(
            {
                "proxy": {**settings, "default_upstream": REGISTRY, **self._proxy_settings},
                "upstreams": {
                    REGISTRY: {
                        "url": self.upstream.url,
                        "hosts": ["registry.local:5000"],
                        **self._upstream_settings,
                    }
                },
            }
        )
        self.proxy = await self._serve(self._proxy_stack, create_proxy(proxy), self.proxy_tls, proxy_port)
        return self

    async def __aexit__(self, *exception: object) -> None:
        for stack in (self._stack, self._proxy_stack, self._seeder_stack, self._upstream_stack):
            await stack.aclose()

    async def _serve(
        self, stack: AsyncExitStack, app: web.Application, tls: ServerTls | None = None, port: int = 0
    ) -> Address:
        return await stack.enter_async_context(serving(app, Address("127.0.0.1", port), tls=tls))

    @asynccontextmanager
    async def agent(self, **tables: dict[str, object]) -> AsyncIterator[tuple[AgentClient, str, Path]]:
        """A node: the command line's end of its socket, its mirror, its store."""
        self._agents += 1
        home = self._directory / f"n{self._agents}"
        config = AgentConfig.model_validate(
            {
                "agent": {
                    "listen": ANY,
                    "bittorrent": f"127.0.0.{20 + self._agents}:0",
                    "socket": home / "agent.sock",
                    "site_proxies": [f"http://{self.proxy}"],
                    "site_seeders": [f"http://{self.seeder}"],
                    "node_blobs": home / "blobs",
                    **tables.get("agent", {}),
                },
                "storage": {"root": home / "storage", "durability": "none", "used_by": []},
                "unpack": {"ramdisk": home / "ramdisk", "workers": 1, "nice": 0},
                **{name: table for name, table in tables.items() if name != "agent"},
            }
        )
        async with started(config) as mirror:
            yield AgentClient(home / "agent.sock"), mirror, home / "storage"

    async def stop_upstream(self) -> None:
        await self._upstream_stack.aclose()

    async def stop_proxy(self) -> None:
        await self._proxy_stack.aclose()

    async def stop_seeder(self) -> None:
        await self._seeder_stack.aclose()

    def put(self, built: layers.BuiltImage, repository: str, tag: str) -> None:
        """Pushes a built image to the upstream."""
        for content in built.blobs.values():
            self.upstream.add_blob(content)
        self.upstream.add_manifest(repository, tag, built.image.manifest_bytes)
