"""The site's proxy as a process: configuration in, one aiohttp application out."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from imagedist.config import ProxyConfig, load, read_secret
from imagedist.distribution.rate import TokenBucket
from imagedist.distribution.surface import add_registry_routes
from imagedist.errors import ImagedistError
from imagedist.service import add_health_routes, render_site_errors, run_service
from imagedist.site_guard import require_site_token
from imagedist.store.blobs import BlobStore
from registry_proxy.cache import SiteCache
from registry_proxy.purges import Purges
from registry_proxy.seeds import Seeds
from registry_proxy.torrents import Torrents
from registry_proxy.upstream import Upstreams

_BODY_LIMIT_BYTES = 64 << 10
"""The largest body that any route reads is a fetch order."""


def create_app(config: ProxyConfig) -> web.Application:
    """Assembles the proxy. Called inside the running event loop.

    Raises:
        ConfigError: the upstreams or the secret files are wrong. StorageError: the blob store cannot be opened.
    """
    settings = config.proxy
    token = read_secret(settings.site_token_file)
    upstreams = Upstreams(config)
    store = BlobStore(settings.site_blobs, settings.site_blobs_quota)
    cache = SiteCache(store, upstreams)
    seeds = Seeds(settings.site_seeders, token)
    torrents = Torrents(cache, seeds, settings)
    purges = Purges(cache, settings.site_proxies, token)
    store.may_evict = torrents.let_go

    async def get_upstreams(request: web.Request) -> web.Response:
        return web.json_response({"format": 1, "upstreams": upstreams.hosts()})

    async def ready() -> str | None:
        return None if os.access(store.root, os.W_OK) else f"cannot write to {store.root}"

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        yield
        await torrents.close()
        await purges.close()
        await cache.close()
        await seeds.close()
        await upstreams.close()

    site = web.Application(middlewares=[require_site_token(token)])
    torrents.add_routes(site)
    purges.add_routes(site)
    site.router.add_get("/upstreams", get_upstreams)

    app = web.Application(middlewares=[render_site_errors], client_max_size=_BODY_LIMIT_BYTES)
    app.add_subapp("/site/v1", site)
    add_health_routes(app, ready)
    rate = TokenBucket(settings.egress) if settings.egress else None
    add_registry_routes(app, cache, max_requests=settings.max_requests, rate=rate, upstream_name=upstreams.name)
    app.cleanup_ctx.append(lifetime)
    return app


def main() -> None:
    """The console script ``imagedist-proxy``."""
    typer.run(_serve)


def _serve(config: Annotated[Path, typer.Option(help="The proxy's TOML file.")]) -> None:
    """Pulls blobs from upstream registries once, and serves them to the nodes of a site."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = load(config, ProxyConfig)
        run_service(lambda: create_app(settings), settings.proxy.listen)
    except ImagedistError as error:
        print(f"imagedist-proxy: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
