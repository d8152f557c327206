"""Every answer of a service says which service it was, and whom it asked: ``imagedist.hops``."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from imagedist import __version__, hops


def trace_hops(app: web.Application, name: str) -> None:
    """Adds the header to whatever the app answers, errors too. Before other middlewares, which may answer themselves.

    Args:
        name: ``agent``, ``proxy`` or ``seeder``.
    """
    own = f"{name}/{__version__}"

    @web.middleware
    async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
        hops.begin()
        return await handler(request)

    async def stamp(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[hops.HEADER] = hops.line(own)

    app.middlewares.insert(0, traced)
    app.on_response_prepare.append(stamp)
