"""What sync asks of its site's proxy, when that answers oddly."""

from __future__ import annotations

import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import SourceError
from imagedist.service import serving
from seeder.sync.proxy import SiteProxy


async def test_a_list_of_tags_that_breaks_off_is_no_list_that_deletes_the_rest() -> None:
    async def tags(request: web.Request) -> web.Response:
        if "last" in request.query:
            return web.json_response({"errors": [{"code": "NAME_UNKNOWN"}]}, status=404)
        link = '</v2/up/team/app/tags/list?n=1000&last=2>; rel="next"'
        return web.json_response({"name": "team/app", "tags": ["1", "2"]}, headers={"Link": link})

    app = web.Application()
    app.router.add_get("/v2/{path:.*}/tags/list", tags)
    async with serving(app, Address("127.0.0.1", 0)) as address:
        proxy = SiteProxy([f"http://{address}"], "bj", None)
        try:
            with pytest.raises(SourceError, match="broke off the list of tags of team/app"):
                await proxy.tags("up", "team/app")
        finally:
            await proxy.close()


@pytest.mark.parametrize("answers", ["nobody", "another proxy"])
async def test_what_is_no_proxy_of_ours_has_no_say_in_which_tags_are_gone(answers: str) -> None:
    async def upstreams(request: web.Request) -> web.Response:
        return web.json_response({"format": 1, "upstreams": {"other": []}})

    app = web.Application()
    if answers == "another proxy":
        app.router.add_get("/site/v1/upstreams", upstreams)
    async with serving(app, Address("127.0.0.1", 0)) as address:
        proxy = SiteProxy([f"http://{address}"], "bj", None)
        try:
            with pytest.raises(SourceError, match=r"the site's proxy (is none|knows no upstream up)"):
                await proxy.tags("up", "team/app")
            with pytest.raises(SourceError, match=r"the site's proxy (is none|knows no upstream up)"):
                await proxy.tag_now("up", "team/app", "1")
        finally:
            await proxy.close()
