"""``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import prometheus_client
from aiohttp import web
from prometheus_client.multiprocess import MultiProcessCollector

from imagedist.distribution.tracing import HOP
from imagedist.hops import HEADER

STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)
"""Set when the process has been told to stop: who waits for something on a client's behalf answers now."""

Ready = Callable[[], Awaitable[str | None]]
Notes = Callable[[], Awaitable[Sequence[str]]]


def add_health_routes(app: web.Application, ready: Ready, notes: Notes | None = None) -> None:
    """
    Args:
        ready: None when the process can do its job, else the reason it cannot, which ``/readyz`` answers with 503.
        notes: what an operator should know although it can, a line of the answer each.
    """

    named = {HEADER: app[HOP]} if HOP in app else None

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers=named)

    async def readyz(request: web.Request) -> web.Response:
        stopping = app.get(STOPPING)
        reason = "stopping" if stopping is not None and stopping.is_set() else await ready()
        lines = ["ok" if reason is None else reason, *(await notes() if notes else ())]
        return web.Response(
            status=200 if reason is None else 503, text="".join(f"{line}\n" for line in lines), headers=named
        )

    async def metrics(request: web.Request) -> web.Response:
        body = await asyncio.to_thread(_metrics)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])


async def wait_unless_stopping(request: web.Request, work: asyncio.Task[Any], seconds: float) -> None:
    """Returns when the work is done, the time is over, or the process has been told to stop: a long poll would hold
    up the stop of everything else."""
    stopping = request.config_dict.get(STOPPING)
    if stopping is None:
        await asyncio.wait([work], timeout=seconds)
        return
    told = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([work, told], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()


def _metrics() -> bytes:
    """Of this process; of several workers, which share a directory, the sum."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory is None:
        return prometheus_client.generate_latest()
    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)
