"""The site's proxy as a process: configuration in, one aiohttp application out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import partial

from aiohttp import web

from imagedist.config import ProxyConfig, read_secret
from imagedist.distribution.egress import EGRESS_FILE, Egress
from imagedist.distribution.surface import add_registry_routes
from imagedist.distribution.tracing import trace_hops
from imagedist.service import Limits, ServerTls, ServiceOptions, add_health_routes, render_site_errors, run_service
from imagedist.share import Share
from imagedist.site.tls import site_tls
from imagedist.site_guard import require_site_token
from imagedist.store.blobs import BlobStore
from registry_proxy.backups import Backups
from registry_proxy.cache import SiteCache
from registry_proxy.held import add_held_routes
from registry_proxy.housekeeping import Housekeeping
from registry_proxy.known import add_known_routes
from registry_proxy.pace import Pace
from registry_proxy.purges import Purges
from registry_proxy.seeds import Seeds
from registry_proxy.siblings import Siblings
from registry_proxy.sync_routes import SyncRoutes
from registry_proxy.torrents import Torrents
from registry_proxy.upstream import Upstreams
from registry_proxy.web_seeds import WebSeeds

_SECRET = ("/site/v1/pins", "/site/v1/images", "/site/v1/registry/repositories", "/site/v1/synced")
"""They name the repositories of private images."""
_BODY_LIMIT_BYTES = 64 << 10
"""The largest body that any route reads is a fetch order."""


def run(config: ProxyConfig, share: Share) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigError, StorageError: as ``create_app``. InputError: the address is in use.
    """
    settings = config.proxy
    tls = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        tls = partial(ServerTls, settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    options = ServiceOptions(
        limits=Limits(connections=share.part(settings.max_connections)),
        tls=tls,
        drain_seconds=settings.drain.total_seconds(),
        access_log=settings.access_log,
    )
    run_service(lambda: create_app(config, share), settings.listen, options, workers=share.workers)


def create_app(config: ProxyConfig, share: Share = Share()) -> web.Application:
    """Assembles the proxy, or one worker's part of it. Called inside the running event loop.

    Raises:
        ConfigError: the upstreams or the secret files are wrong. StorageError: the blob store cannot be opened.
    """
    settings = config.proxy
    token = read_secret(settings.site_token_file)
    tls = site_tls(settings)
    upstreams = Upstreams(config)
    store = BlobStore(settings.site_blobs, settings.site_blobs_quota, headroom_bytes=settings.site_blobs_headroom)
    siblings = Siblings(settings.site_seeders, tls)
    backups = Backups(settings.site_seeders, token, tls)
    cache = SiteCache(store, upstreams, siblings, Pace(share.directory), backups)
    seeds = Seeds(settings.site_seeders, token, store.root / "torrents", settings.seeder_replicas, tls=tls)
    egress = Egress(store.root / EGRESS_FILE)
    egress.configure(settings.egress)
    torrents = Torrents(cache, seeds, settings, share, egress)
    purges = Purges(cache, settings.site_proxies, token, tls)
    store.space.may_evict = torrents.let_go
    housekeeping = Housekeeping(cache, settings)

    async def get_upstreams(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "format": 1,
                "upstreams": upstreams.hosts(),
                "any": settings.allow_any,
                "default": settings.default_upstream,
            }
        )

    async def wants_credentials() -> bool:
        return upstreams.wants_credentials

    async def ready() -> str | None:
        return None if os.access(store.root, os.W_OK) else f"cannot write to {store.root}"

    async def notes() -> list[str]:
        return [*seeds.failing(), *upstreams.failing()]

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        siblings.start()
        backups.start()
        housekeeping.start()
        seeds.start()
        yield
        await housekeeping.close()
        await torrents.close()
        await purges.close()
        await cache.close()
        await seeds.close()
        await upstreams.close()
        await siblings.close()
        await backups.close()
        egress.close()

    site = web.Application(middlewares=[require_site_token(token, secret=_SECRET)])
    torrents.add_routes(site)
    purges.add_routes(site)
    housekeeping.add_routes(site)
    add_known_routes(site, cache.manifest_store, cache.synced, upstreams.hosts())
    SyncRoutes(cache).add_routes(site)
    add_held_routes(site, cache, egress)
    web_seeds = WebSeeds(
        cache,
        token,
        max_downloads=share.part(settings.max_downloads),
        rate=egress,
        needs_certificate=settings.tls_client_ca is not None,
    )
    web_seeds.add_routes(site)
    site.router.add_get("/upstreams", get_upstreams)

    app = web.Application(middlewares=[render_site_errors], client_max_size=_BODY_LIMIT_BYTES)
    trace_hops(app, "proxy")
    app.add_subapp("/site/v1", site)
    add_health_routes(app, ready, notes)
    add_registry_routes(
        app,
        cache,
        max_requests=share.part(settings.max_requests),
        max_downloads=share.part(settings.max_downloads),
        fallback=settings.fallback,
        rate=egress,
        upstream_name=upstreams.name,
        wants_credentials=wants_credentials,
    )
    app.cleanup_ctx.append(lifetime)
    return app
