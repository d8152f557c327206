from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import Site
from seeder.sites import add_site_routes


async def test_site_and_its_siblings_are_named() -> None:
    app = web.Application()
    site = Site(proxy="http://sh.example:5001", seeder="http://sh.example:5002", cost=7)
    add_site_routes(app, "bj", {"sh": site}, ["http://127.0.0.1:5001"])
    async with TestClient(TestServer(app)) as client:
        answer = await (await client.get("/site/v1/sites")).json()
    sibling = {"name": "sh", "proxy": "http://sh.example:5001", "seeder": "http://sh.example:5002", "cost": 7}
    assert answer == {"format": 1, "site": "bj", "proxies": ["http://127.0.0.1:5001"], "siblings": [sibling]}
