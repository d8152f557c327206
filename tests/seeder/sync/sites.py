"""Whole sites in one process for tests of sync: each its registry, proxy and seeder, real sockets on loopback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from imagedist.config import Address, ProxyConfig, SeederConfig
from imagedist.oci.digest import Digest
from imagedist.service import ServerTls, serving
from imagedist.site_sync import RestorePlan, SyncPlan, SyncStatus
from registry_proxy.app import create_app as create_proxy
from seeder.app import create_app as create_seeder
from seeder.tag_routes import JournalPage
from tests.support.certificates import Authority
from tests.support.postgres import site_database
from tests.support.registry import FaultyRegistry
from tests.support.waiting import until

UPSTREAM = "local"


class Registry(FaultyRegistry):
    """It also tells which tags and repositories it has, unless ``has_catalog`` is false."""

    has_catalog = True

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        tags: dict[str, list[str]] = {}
        for name, reference in self.manifests:
            if ":" not in reference:
                tags.setdefault(name, []).append(reference)
        if path == "_catalog" and self.has_catalog:
            return web.json_response({"repositories": sorted(tags)})
        name = path.removesuffix("/tags/list")
        if name != path and not self.statuses:
            self.requests[f"GET {request.path}"] += 1
            if name not in tags:
                return web.json_response({"errors": [{"code": "NAME_UNKNOWN"}]}, status=404)
            return web.json_response({"name": name, "tags": sorted(tags[name])})
        return await super()._handle(request)

    def delete_tag(self, repository: str, tag: str) -> None:
        del self.manifests[repository, tag]


class SyncSite:
    """One site; use as a context once its siblings are known (``join``).

    Attributes:
        authority: its proxy speaks HTTPS by it, and wants client certificates of it.
        registry: its own. rules: ``[[sync]]``. tables: of its seeder's file besides. token: the site's, if it has one.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.registry = Registry()
        self.rules: list[dict[str, Any]] = []
        self.tables: dict[str, Any] = {}
        self.seeder_settings: dict[str, Any] = {}
        self.proxy_settings: dict[str, Any] = {}
        self.authority: Authority | None = None
        self.token: str | None = None
        self.upstream_url: str | None = None
        self.upstream_settings: dict[str, Any] = {}
        self._directory = directory / name
        self._database = site_database(self._directory)
        # an address of its own, so that a stopped part finds its port free when it comes back
        self._address = f"127.{random.randint(64, 127)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        self._siblings: dict[str, dict[str, Any]] = {}
        self._registry = AsyncExitStack()
        self._proxy = AsyncExitStack()
        self._seeder = AsyncExitStack()
        self._http: aiohttp.ClientSession | None = None

    @property
    def proxy_url(self) -> str:
        return f"http{'s' if self.authority else ''}://{self._address}:5001"

    @property
    def seeder_url(self) -> str:
        return f"http://{self._address}:5002"

    @property
    def blobs(self) -> set[str]:
        """The hex digests that its store holds."""
        directory = self._directory / "site" / "blobs" / "sha256"
        return {path.name for path in directory.iterdir()} if directory.exists() else set()

    @property
    def private_notes(self) -> dict[str, str]:
        """Which blobs are private, and whose."""
        return {path.name: path.read_text() for path in (self._directory / "site" / "private").iterdir()}

    async def gives_siblings(self, digest: Digest) -> bool:
        assert self._http is not None
        async with self._http.head(f"{self.proxy_url}/site/v1/held/v2/x/blobs/{digest}") as answer:
            return answer.status == 200

    def remove_blob(self, digest: Digest) -> None:
        """As a disk loses it."""
        (self._directory / "site" / "blobs" / digest.algorithm / digest.hex).unlink()

    def join(self, *others: SyncSite) -> None:
        for other in others:
            self._siblings[other.name] = {"proxy": other.proxy_url, "seeder": other.seeder_url}

    def join_with(self, other: SyncSite, **settings: Any) -> None:
        self._siblings[other.name] = {"proxy": other.proxy_url, "seeder": other.seeder_url, **settings}

    def join_as(self, name: str, other: SyncSite) -> None:
        """As ``join``, under a name that is not the other's own."""
        self._siblings[name] = {"proxy": other.proxy_url, "seeder": other.seeder_url}

    def forget(self) -> None:
        """The seeder's database is lost."""
        for path in self._directory.glob("seeder.db*"):
            path.unlink()
        self._database = site_database(self._directory)

    def wipe(self) -> None:
        """The store's disk is lost while proxy and seeder are away."""
        shutil.rmtree(self._directory / "site")
        (self._directory / "site").mkdir()

    async def __aenter__(self) -> Self:
        (self._directory / "site").mkdir(parents=True)
        await self._registry.enter_async_context(self.registry)
        if self.authority is not None:
            trust = self.authority.client_context()
            trust.load_cert_chain(*self.authority.issue(f"client-of-{self.name}"))
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))
        else:
            self._http = aiohttp.ClientSession()
        await self.start_proxy()
        await self.start_seeder()
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._http is not None:
            await self._http.close()
        for stack in (self._seeder, self._proxy, self._registry):
            await stack.aclose()

    async def start_proxy(self) -> None:
        config = ProxyConfig.model_validate(
            {
                "proxy": {
                    "listen": f"{self._address}:5001",
                    "site_blobs": self._directory / "site",
                    "site_seeders": [self.seeder_url],
                    "default_upstream": UPSTREAM,
                    **self.proxy_settings,
                },
                "upstreams": {
                    UPSTREAM: {
                        "url": self.upstream_url or self.registry.url,
                        "negative_ttl": "0s",
                        **self.upstream_settings,
                    }
                },
            }
        )
        address = Address(self._address, 5001)
        tls = None
        if self.authority is not None:
            tls = ServerTls(*self.authority.issue(self.name, self._address), self.authority.ca)
        await self._proxy.enter_async_context(serving(create_proxy(config), address, tls=tls))

    async def start_seeder(self) -> None:
        config = SeederConfig.model_validate(
            {
                "seeder": {
                    "site": self.name,
                    "listen": f"{self._address}:5002",
                    "bittorrent": f"{self._address}:0",
                    "site_blobs": self._directory / "site",
                    "site_proxies": [self.proxy_url],
                    "database": self._database,
                    **self.seeder_settings,
                },
                "sites": self._siblings,
                "sync": self.rules,
                **self.tables,
            }
        )
        address = Address(self._address, 5002)
        await self._seeder.enter_async_context(serving(create_seeder(config), address))

    async def stop_proxy(self) -> None:
        await self._proxy.aclose()

    async def stop_seeder(self) -> None:
        await self._seeder.aclose()

    async def stop_registry(self) -> None:
        self.upstream_url = self.upstream_url or self.registry.url  # which nobody knows when it is gone
        await self._registry.aclose()

    async def status(self) -> SyncStatus:
        return SyncStatus.model_validate_json(await self.ask("GET", "syncs?destinations=1"))

    async def plan(self) -> SyncPlan:
        return SyncPlan.model_validate_json(await self.ask("GET", "syncs/plan"))

    async def run(self) -> None:
        await self.ask("POST", "syncs/run")

    async def notify(self, repository: str, tag: str) -> None:
        """As docker-registry does after a push."""
        target = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": repository, "tag": tag}
        await self.ask("POST", "syncs/webhook", json={"events": [{"action": "push", "target": target}]})

    async def ask(self, method: str, path: str, **options: Any) -> bytes:
        assert self._http is not None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
        url = f"{self.seeder_url}/site/v1/{path}"
        async with self._http.request(method, url, headers=headers, **options) as answer:
            body = await answer.read()
            assert answer.status < 300, body
            return body

    async def restore(self, source: str, *repositories: str, is_dry: bool = False) -> RestorePlan:
        order = {"source": source, "repositories": repositories, "is_dry": is_dry}
        return RestorePlan.model_validate_json(await self.ask("POST", "restores", json=order))

    async def until_restored(self, source: str) -> None:
        async def is_done() -> bool:
            status = await self.ask("POST", "restores/status", json={"source": source})
            return not json.loads(status)["waiting"]

        await until(is_done, f"{self.name} has restored all of {source}")

    async def statuses_of(
        self, method: str, path: str, headers: list[dict[str, str]], body: dict[str, Any]
    ) -> list[int]:
        """The statuses of a request sent once with each of the headers."""
        assert self._http is not None
        statuses = []
        for each in headers:
            url = f"{self.seeder_url}/site/v1/{path}"
            async with self._http.request(method, url, headers=each, json=body) as answer:
                statuses.append(answer.status)
        return statuses

    async def told(self, repository: str, tag: str) -> Digest | None:
        """What the site's proxy tells pullers that the tag means."""
        assert self._http is not None
        async with self._http.get(f"{self.proxy_url}/v2/{UPSTREAM}/{repository}/manifests/{tag}") as answer:
            return Digest.parse(answer.headers["Docker-Content-Digest"]) if answer.status == 200 else None

    async def manifest(self, repository: str, reference: str) -> bytes:
        """As a puller gets it."""
        return await self._pulled(f"{repository}/manifests/{reference}")

    async def referrers(self, repository: str, subject: Digest) -> dict[str, Any]:
        """As the site's proxy tells them to everyone."""
        index: dict[str, Any] = json.loads(await self._pulled(f"{repository}/referrers/{subject}"))
        return index

    async def _pulled(self, path: str) -> bytes:
        assert self._http is not None
        async with self._http.get(f"{self.proxy_url}/v2/{UPSTREAM}/{path}") as answer:
            body = await answer.read()
            assert answer.status == 200, body
            return body

    async def journal(self) -> dict[str, str | None]:
        """All of it, page by page."""
        entries: dict[str, str | None] = {}
        since = 0
        while (page := JournalPage.model_validate_json(await self.ask("GET", f"tags?since={since}"))).tags:
            entries |= {f"{each.name}:{each.tag}": str(each.digest) if each.digest else None for each in page.tags}
            since = page.sequence
        return entries


async def until_told(site: SyncSite, repository: str, tag: str, digest: Digest | None) -> None:
    async def is_told() -> bool:
        return await site.told(repository, tag) == digest

    await until(is_told, f"{site.name} tells {repository}:{tag} as {digest}")


async def until_quiet(sites: Sequence[SyncSite]) -> None:
    """Nothing is looked at, waits or is behind anywhere."""

    async def is_quiet() -> bool:
        for site in sites:
            status = await site.status()
            if status.is_scanning or status.waiting or any(each.is_behind for each in status.destinations):
                return False
        return True

    await until(is_quiet, "all sites are quiet")
