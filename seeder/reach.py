"""Whether the site can open a connection to a node's BitTorrent port, as peers must: for `imagedist doctor`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from aiohttp import web

from imagedist.errors import InputError, OverloadedError
from seeder.nodes import Nodes

_CONNECT_SECONDS = 3.0
_MAX_ATTEMPTS = 32
_NEIGHBOURS = 5


def add_reach_routes(app: web.Application, nodes: Nodes, peer_port: Callable[[], int]) -> None:
    """Adds ``GET /site/v1/reach?port=``: tries that port of whoever asks, and of nobody else.

    Args:
        nodes: some of them are told in return, to be tried from there.
        peer_port: the seeder's own BitTorrent port, told as well.
    """
    attempts = 0

    async def reach(request: web.Request) -> web.Response:
        nonlocal attempts
        port = request.query.get("port", "")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"bad port {port[:20]!r}: expected 1 to 65535")
        peer = request.transport.get_extra_info("peername") if request.transport else None
        if not isinstance(peer, tuple):
            raise InputError("only who asks over TCP has an address")
        if attempts >= _MAX_ATTEMPTS:
            raise OverloadedError(f"{_MAX_ATTEMPTS} nodes are being tried already")
        attempts += 1
        try:
            obstacle = await _obstacle(str(peer[0]), int(port))
        finally:
            attempts -= 1
        return web.json_response(
            {
                "format": 1,
                "address": str(peer[0]),
                "obstacle": obstacle,
                "peer_port": peer_port(),
                "is_known": nodes.has(str(peer[0]), int(port)),
                "neighbours": nodes.neighbours(str(peer[0]), int(port), _NEIGHBOURS),
            }
        )

    app.router.add_get("/site/v1/reach", reach)


async def _obstacle(host: str, port: int) -> str | None:
    """``refused``, ``timed out`` or the system's word for it. None: somebody listens."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "timed out"
    except OSError as error:
        return os.strerror(error.errno).lower() if error.errno else type(error).__name__
    writer.close()
    return None
