"""The agent process, top to bottom: cache, swarm, mirror, socket."""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web

from imagedist import __version__, unix_socket
from imagedist.agent.api import SocketApi
from imagedist.agent.collecting import keep_collected
from imagedist.agent.heartbeat import Vitals, keep_beating
from imagedist.agent.limits import NodeLimits
from imagedist.agent.mirror import Mirror
from imagedist.agent.naming import former_node_id, node_id
from imagedist.agent.preheat import NodePreheat
from imagedist.agent.preheat_images import NodeImages
from imagedist.agent.preheat_runtimes import NodeRuntimes
from imagedist.agent.ramdisk import mounted
from imagedist.agent.sole_user import sole_user
from imagedist.agent.source import NodeSource
from imagedist.config import AgentConfig, read_secret
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.distribution.surface import add_registry_routes
from imagedist.distribution.tracing import trace_hops
from imagedist.engine import affordable_bytes, agent_workers, opened, started_workers
from imagedist.fetch.handover import Pace
from imagedist.fetch.node import NodeBlobs
from imagedist.fetch.watch import Patience
from imagedist.puller import Puller
from imagedist.service import (
    add_health_routes,
    beside,
    raise_open_files_limit,
    ready_for_systemd,
    recording,
    serving,
    stop_signals,
)
from imagedist.site import Site
from imagedist.site.tls import site_tls
from imagedist.swarm.libtorrent_session import LibtorrentSession
from imagedist.systemd import inherited_sockets
from imagedist.threads import in_thread

_LOG = logging.getLogger(__name__)


async def run(config: AgentConfig) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        InputError: a port or the socket is in use. StorageError, ConfigError.
    """
    passed = inherited_sockets()
    raise_open_files_limit()
    with stop_signals() as signals:
        async with started(config, passed, signals.cut) as mirror:
            _LOG.info("agent %s: mirror on %s, socket %s", __version__, mirror, config.agent.socket)
            async with ready_for_systemd():
                await signals.wait()


@asynccontextmanager
async def started(
    config: AgentConfig, passed: Sequence[sockets.socket] = (), cut: asyncio.Event | None = None
) -> AsyncIterator[str]:
    """A running agent; yields its mirror's ``host:port``.

    Args:
        passed: listening sockets to use instead of ``agent.listen`` (TCP) and ``agent.socket`` (Unix).
        cut: ends the wait for running requests when the context is left.
    """
    table = config.agent
    unpack = config.unpack
    if unpack.workers is None and unpack.cpus is None:
        unpack = unpack.model_copy(update={"workers": agent_workers()})
    async with AsyncExitStack() as stack:
        budget_bytes = affordable_bytes(unpack)
        stack.enter_context(mounted(unpack.ramdisk, budget_bytes))
        workers = stack.enter_context(started_workers(unpack))
        engine = stack.enter_context(opened(config.storage, unpack, workers, budget_bytes))
        own_id = node_id(table)
        limits = config.limits
        rate = ChangingRate(limits.download)
        tls = site_tls(table)
        site = Site(table.site_proxies, table.site_seeders, own_id, read_secret(table.site_token_file), rate, tls)
        stack.push_async_callback(site.close)
        session = await LibtorrentSession.open(table.bittorrent, networks=table.peer_networks)
        stack.push_async_callback(session.close)
        trackers = [f"{seeder}/announce" for seeder in table.site_seeders]
        quota_bytes = int(table.node_blobs_quota)
        await stack.enter_async_context(sole_user(table.node_blobs))
        blobs = await asyncio.to_thread(
            NodeBlobs,
            table.node_blobs,
            quota_bytes,
            site,
            session,
            trackers,
            Patience.of(table),
            config.seeding,
            Pace(table.swarm_others, stalled=table.swarm_stalled.total_seconds()),
            table.unfinished_kept.total_seconds(),
        )
        stack.push_async_callback(blobs.close)
        node_limits = NodeLimits(limits, session, rate, lambda: blobs.received_bytes, quiet=config.quiet)
        await blobs.start()
        await stack.enter_async_context(beside(node_limits.keep, "limits of the node"))

        app = web.Application()
        backend = Mirror(site, blobs)
        trace_hops(app, "agent")
        add_registry_routes(
            app,
            backend,
            max_requests=table.max_requests,
            max_downloads=table.max_downloads,
            fallback=table.fallback,
            wants_credentials=backend.wants_credentials,
        )
        add_health_routes(app, site.unready)
        recorder = await stack.enter_async_context(recording(table.access_log))
        mirror = await stack.enter_async_context(
            serving(
                app,
                [found for found in passed if found.family != sockets.AF_UNIX] or table.listen,
                recorder=recorder,
                drain_seconds=table.drain.total_seconds(),
                cut=cut,
            )
        )

        puller = Puller(NodeSource(backend), engine.store, engine.ramdisk, engine.workers)
        stack.callback(puller.close)
        runtimes = NodeRuntimes(str(mirror), table.runtime_patience.total_seconds())
        images = NodeImages(site, backend, runtimes, blobs.store, engine.store, puller)
        preheat = NodePreheat(
            site.seeders,
            images,
            table.node_blobs / "preheat.json",
            node_limits.lower_download,
            lambda: sum(blobs.received_bytes.values()),
            table.preheat_check.total_seconds(),
        )
        await preheat.restore()
        blobs.store.space.keeps = preheat.pinned_blobs
        in_use = table.model_copy(update={"bittorrent": session.address})  # port 0 has become a port
        config = config.model_copy(update={"agent": in_use})
        api = SocketApi(config, str(mirror), backend, site, blobs, session, puller, node_limits)
        unix = next((found for found in passed if found.family == sockets.AF_UNIX), None)
        await stack.enter_async_context(listening(api.create_app(), unix or table.socket))
        vitals = Vitals(config, blobs.store, engine.store, former_node_id(table))
        await stack.enter_async_context(beside(preheat.keep, "preheats of the node"))
        beating = partial(keep_beating, site.seeders, vitals, table.heartbeat.total_seconds())
        await stack.enter_async_context(beside(beating, "heartbeats"))
        collecting = partial(keep_collected, engine.store, unpack.ramdisk)
        await stack.enter_async_context(beside(collecting, "garbage collection"))
        yield str(mirror)


@asynccontextmanager
async def listening(app: web.Application, at: Path | sockets.socket) -> AsyncIterator[None]:
    """Serves on a Unix socket only its owner and group may use; a dead agent's socket is replaced.

    Args:
        at: its path, or the socket itself, listening, which stays systemd's.
    """
    # A client that goes away (Ctrl-C) cancels its pull.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2.0)
    try:
        await runner.setup()
        if isinstance(at, sockets.socket):
            await web.SockSite(runner, at).start()
            yield
            return
        async with in_thread(unix_socket.listening(at, 0o660, "agent", "agent.socket"), threading.Event()) as listener:
            served = listener.dup()  # the runner closes it only after the path is gone
            try:
                await web.SockSite(runner, served).start()
            except BaseException:
                served.close()
                raise
            yield
    finally:
        await runner.cleanup()
