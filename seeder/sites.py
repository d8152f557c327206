"""``GET /site/v1/sites``: this site and its siblings, configured once here; the site's proxies learn them from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from imagedist.config import Site


def add_site_routes(app: web.Application, name: str, siblings: Mapping[str, Site], proxies: Sequence[str] = ()) -> None:
    """
    Args:
        name: this site's own. proxies: its own, as its seeder reaches them.
    """
    told = {"proxy", "seeder", "cost"}
    listed = [{"name": each, **site.model_dump(mode="json", include=told)} for each, site in siblings.items()]
    body = {"format": 1, "site": name, "proxies": list(proxies), "siblings": listed}

    async def get_sites(request: web.Request) -> web.Response:
        return web.json_response(body)

    app.router.add_get("/site/v1/sites", get_sites)
