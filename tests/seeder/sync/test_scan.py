"""A registry looked through: what it tells of referrers by its API only, and what an odd answer of that API means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.config.syncing import SyncRule
from imagedist.oci.digest import Digest
from imagedist.service import serving
from seeder.database import Database
from seeder.sync.ledger import Ledger
from seeder.sync.proxy import SiteProxy
from seeder.sync.rules import Rule, referrers_tag
from seeder.sync.scan import Scans
from seeder.tags import TagJournal

SUBJECT, LIST = Digest.of(b"subject"), Digest.of(b"list")
TAG = referrers_tag(SUBJECT)
NAME = "up/team/app"


class SiteWithApi:
    """A site's proxy, whose registry has one tag and tells of its referrers unless ``denies``."""

    def __init__(self, directory: Path) -> None:
        self.denies = False
        self.tags = ["1"]
        self.now = 0.0
        self._directory = directory

    async def scans(self) -> AsyncIterator[Scans]:
        app = web.Application()
        app.router.add_get("/v2/{path:.*}/tags/list", self._list)
        app.router.add_get("/site/v1/upstreams", self._upstreams)
        app.router.add_get("/site/v1/registry/tag", self._tag)
        app.router.add_get("/site/v1/registry/referrers/{digest}", self._referrers)
        database = await Database.open(f"sqlite:///{self._directory}/seeder.db")
        async with serving(app, Address("127.0.0.1", 0)) as address:
            proxy = SiteProxy([f"http://{address}"], "bj", None)
            rule = Rule(1, SyncRule.model_validate({"repositories": ["team/*"], "to": ["sh"], "delete": True}), "up")
            ledger = Ledger(database, TagJournal(database, "bj"))
            yield Scans(proxy, ledger, [rule], clock=lambda: self.now)
            await proxy.close()
        await database.close()

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"name": "team/app", "tags": self.tags})

    async def _upstreams(self, request: web.Request) -> web.Response:
        return web.json_response({"format": 1, "upstreams": {"up": []}})

    async def _tag(self, request: web.Request) -> web.Response:
        return web.json_response({"format": 1, "digest": str(SUBJECT if request.query["tag"] == "1" else LIST)})

    async def _referrers(self, request: web.Request) -> web.Response:
        if self.denies:
            return web.json_response({"error": {"code": "NOT_FOUND", "message": "none"}}, status=404)
        return web.json_response({"format": 1, "digest": str(LIST)})


@pytest.fixture
def site(tmp_path: Path) -> SiteWithApi:
    return SiteWithApi(tmp_path)


async def seen(scans: Scans, *, may_delete: bool = False) -> set[str]:
    await scans.scan("up", "team/app", may_delete=may_delete)
    return set((await scans.find("up", "team/app", may_delete=may_delete)).covered)


async def test_a_404_of_the_referrers_api_of_a_registry_that_has_it_drops_no_list(site: SiteWithApi) -> None:
    async for scans in site.scans():
        assert await seen(scans) == {"1", TAG}
        site.denies = True
        for site.now in (0.0, 3600.0):
            assert await seen(scans) == {"1", TAG}
        assert await seen(scans, may_delete=True) == {"1"}  # an operator says that it is so


async def test_after_a_restart_a_registry_is_believed_only_when_it_goes_on_denying(site: SiteWithApi) -> None:
    async for scans in site.scans():
        assert await seen(scans) == {"1", TAG}
    site.denies = True
    async for scans in site.scans():
        assert await seen(scans) == {"1", TAG}
        site.now += 60
        assert await seen(scans) == {"1"}


async def test_of_a_registry_without_the_api_the_tag_counts(site: SiteWithApi) -> None:
    site.denies, site.tags = True, ["1", TAG]
    async for scans in site.scans():
        assert await seen(scans) == {"1", TAG}
        site.now += 60
        assert await seen(scans) == {"1", TAG}
        site.tags = ["1"]
        assert await seen(scans) == {"1"}
