"""What is kept of every answered request: its metrics, and a line of the access log. aiohttp calls it at the end."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from prometheus_client import Counter, Histogram

from imagedist.distribution.served import SERVED, Served
from imagedist.metrics import CACHE_ANSWERS, FIRST_BYTE_SECONDS, REQUESTS
from imagedist.service.access_log import AccessLog
from imagedist.service.clients import client_kind

_AGENT_LENGTH = 200
_PATH_LENGTH = 500


class Recorder(AbstractAccessLogger):
    """One for all connections of a process.

    Args:
        log: None: metrics only.
    """

    def __init__(self, log: AccessLog | None = None) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()

    @property
    def enabled(self) -> bool:
        return True

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Args:
        time: seconds that the request took.
        """
        served: Served | None = request.get(SERVED)
        agent = request.headers.get("User-Agent", "")
        client = client_kind(agent)
        route = served.route if served is not None else _route(request)
        _requests(route, client, response.status).inc()
        first_byte_seconds = time
        if served is not None:
            if served.first_byte_at is not None:
                first_byte_seconds = max(0.0, time - (self._loop.time() - served.first_byte_at))
            _first_byte(route, served.source).observe(first_byte_seconds)
            if served.source and response.status < 300:
                _answers(route, served.source).inc()
        if self._log is not None:
            self._write(self._log, request, response, served or Served(route), agent, client, time, first_byte_seconds)

    def _write(
        self,
        log: AccessLog,
        request: web.BaseRequest,
        response: web.StreamResponse,
        served: Served,
        agent: str,
        client: str,
        seconds: float,
        first_byte_seconds: float,
    ) -> None:
        fields: dict[str, str | int | float] = {
            "address": request.remote or "",
            "client": client,
            "agent": agent[:_AGENT_LENGTH],
            "method": request.method,
            "route": served.route,
            "namespace": served.namespace,
            "repository": served.repository,
            "reference": served.reference,
            "status": response.status,
            "bytes": response.body_length if served.sent_bytes is None else served.sent_bytes,
            "seconds": round(seconds, 4),
            "first_byte": round(first_byte_seconds, 4),
            "source": served.source,
            "error": served.error,
        }
        if not served.repository:
            fields["path"] = request.path[:_PATH_LENGTH]  # without the query, which may hold a signature
        log.write(_wall_clock(), fields)


_wall_clock = time.time


def _route(request: web.BaseRequest) -> str:
    """The pattern of a route that is no registry's: a bounded set."""
    if request.method == "UNKNOWN" or not isinstance(request, web.Request):  # aiohttp's stand-in for a broken head
        return "malformed"
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"


@lru_cache(maxsize=4096)
def _requests(route: str, client: str, status: int) -> Counter:
    return REQUESTS.labels(route=route, client=client, status=str(status))


@lru_cache(maxsize=64)
def _first_byte(route: str, source: str) -> Histogram:
    return FIRST_BYTE_SECONDS.labels(route=route, source=source)


@lru_cache(maxsize=64)
def _answers(route: str, source: str) -> Counter:
    return CACHE_ANSWERS.labels(route=route, source=source)
