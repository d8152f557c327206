"""The site seeder: reads its configuration, wires tracker, seeds, nodes and tag journal into one service."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from imagedist.config import SeederConfig, load, read_secret
from imagedist.distribution.egress import EGRESS_FILE, Egress
from imagedist.distribution.tracing import trace_hops
from imagedist.errors import ImagedistError, SourceError
from imagedist.log import log_to_stderr
from imagedist.service import add_health_routes, beside, render_site_errors, run_service
from imagedist.site import Site
from imagedist.site.tls import site_tls
from imagedist.site_guard import require_site_token
from imagedist.swarm.torrent import MAX_TORRENT_BYTES
from seeder import node_rows
from seeder.database import Database
from seeder.leading import Leading
from seeder.leases import Leases
from seeder.limits import UploadCaps, add_limit_routes
from seeder.node_routes import add_node_routes
from seeder.nodes import Nodes
from seeder.preheat.images import Images
from seeder.preheat.preheats import PREHEATS_KEY, Preheats, preheating
from seeder.preheat.routes import add_preheat_routes
from seeder.preheat.rows import RunRows
from seeder.reach import add_reach_routes
from seeder.seeds import SEEDS_KEY, Seeds, add_seed_routes
from seeder.sites import add_site_routes
from seeder.sync.routes import BACKUPS_PATH, SYNC_KEY, WEBHOOK_PATH, add_sync_routes
from seeder.sync.service import Sync
from seeder.sync.sibling import FOLLOWED_PATHS
from seeder.tag_routes import JOURNAL_KEY, add_tag_routes
from seeder.tags import TagJournal
from seeder.tracker import Tracker, add_tracker_routes, open_peers
from seeder.uploads import Pace, UploadSession

_LOG = logging.getLogger(__name__)

_DATABASE = web.AppKey("database", Database)
_LEADING = web.AppKey("leading", Leading)
_SECRET = tuple(f"/site/v1/{each}" for each in ("nodes", "preheats", "suggested-preheats", "syncs", "tags"))
"""They name private images. What agents, proxies and clients read has no token: tracker, seeds, sites."""


def create_app(config: SeederConfig) -> web.Application:
    """The seeder's web application; start-up opens the session and the journal, clean-up closes them.

    Raises:
        ConfigError: the site token file is unreadable. Start-up raises InputError for a BitTorrent port in use and
            StorageError for a database that cannot be opened.
    """
    settings = config.seeder
    webhook_token = read_secret(settings.webhook_token_file)
    token = read_secret(settings.site_token_file)
    siblings_token = read_secret(settings.siblings_token_file)
    guard = require_site_token(
        token,
        secret=(BACKUPS_PATH, *(_SECRET if token and not settings.open_reads else ())),
        tokens={WEBHOOK_PATH: webhook_token} if webhook_token else {},
        readers=dict.fromkeys(FOLLOWED_PATHS, siblings_token) if siblings_token else {},
    )
    app = web.Application(middlewares=[render_site_errors, guard], client_max_size=MAX_TORRENT_BYTES)
    nodes = Nodes(config.nodes.gone_after.total_seconds(), config.nodes.forget_after.total_seconds())
    interval_seconds = max(1, round(settings.announce_interval.total_seconds()))
    peers = open_peers(config.tracker.peers, settings.site, interval_seconds)
    tracker = Tracker(
        interval_seconds,
        settings.bittorrent,
        lambda infohash: app[SEEDS_KEY].is_seeding(infohash),
        peers,
        is_known=lambda infohash: app[SEEDS_KEY].knows(infohash),
        place_of=nodes.place_of,
        networks=config.tracker.networks,
    )

    tls = site_tls(settings)
    asking = Site(settings.site_proxies, (), f"{settings.site}-seeder", token, tls=tls)
    images = Images(asking if settings.site_proxies else None)

    async def rows(app: web.Application) -> AsyncIterator[None]:
        app[_DATABASE] = database = await Database.open(
            settings.database, f"{socket.gethostname()} ({settings.listen})"
        )
        leases = Leases(database, settings.takeover_after.total_seconds())
        app[_LEADING] = leading = Leading(database, leases)
        try:
            app[JOURNAL_KEY] = journal = TagJournal(database, settings.site)
            app[SYNC_KEY] = sync = Sync(config, database, journal, leading, leases)
            app[PREHEATS_KEY] = preheats = Preheats(nodes, RunRows(database, leading), images, leading=leading)
            await leading.take()
            async with beside(leading.keep, "the lead"):
                async with node_rows.kept(nodes, database, leading), preheating(preheats, leading), sync:
                    yield
        finally:
            await database.close()
            await asking.close()

    async def tracking(app: web.Application) -> AsyncIterator[None]:
        yield
        await peers.close()

    egress = Egress(settings.site_blobs / EGRESS_FILE)
    caps = UploadCaps(settings.upload, egress)
    peers_come_to = settings.bittorrent

    async def seeds(app: web.Application) -> AsyncIterator[None]:
        async def seeds_elsewhere(infohash: bytes) -> int:
            try:
                return (await peers.counts(infohash)).seeds
            except SourceError:  # Redis does not answer: as if there were none
                return 0

        session = await UploadSession.open(
            settings.bittorrent,
            caps=caps,
            pace=Pace(copies=settings.copies),
            networks=config.tracker.networks,
            count_seeds=seeds_elsewhere,
            connections_per_host=settings.connections_per_host,
        )
        nonlocal peers_come_to
        peers_come_to = session.address
        tracker.seeder_listens_at(session.address)
        app[SEEDS_KEY] = seeds = Seeds(session, settings.site_blobs)
        # In the background: the tracker serves at once, and readyz says when everything is seeded.
        async with beside(seeds.restore, "adding the seeds"):
            yield
        await session.close()
        egress.close()

    async def ready() -> str | None:
        if not app[SEEDS_KEY].is_restored:
            return "still adding the seeds of the site's blob store"
        return await app[_DATABASE].check() or app[_LEADING].trouble

    app.cleanup_ctx.extend([rows, tracking, seeds])
    trace_hops(app, "seeder")
    add_reach_routes(app, nodes, lambda: peers_come_to.port)
    add_tracker_routes(app, tracker)
    add_limit_routes(app, caps)
    add_seed_routes(app)
    add_node_routes(
        app, nodes, lambda: app[_LEADING].require(), lambda: node_rows.flush(nodes, app[_DATABASE], app[_LEADING])
    )
    add_preheat_routes(app, images)
    add_tag_routes(app)
    add_sync_routes(app)
    add_site_routes(app, settings.site, config.sites, settings.site_proxies)
    add_health_routes(app, ready)
    return app


def serve(
    config: Annotated[Path, typer.Option("--config", help="The seeder's TOML file.", show_default=False)],
) -> None:
    """Runs the site's seeder: tracker, BitTorrent seed, node inventory and tag journal."""
    log_to_stderr()
    try:
        settings = load(config, SeederConfig)
        run_service(lambda: create_app(settings), settings.seeder.listen)
    except ImagedistError as error:
        print(f"imagedist-seeder: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


def main() -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(serve)
    app(prog_name="imagedist-seeder")
