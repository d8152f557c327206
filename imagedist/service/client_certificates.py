"""Who is served where a client certificate is wanted: who has shown one.

The handshake refuses certificates of other authorities. One without any gets as far as this, as with nginx: a client is
told what it lacks, which TLS has no words for, and an application may have parts that are guarded otherwise.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

GUARDED_OTHERWISE = web.AppKey("guarded_otherwise", bool)
"""Of an application inside another one: it checks by itself who may have what it gives."""

_REFUSAL = (
    "only clients with a certificate of this site's authority are served, and this one has shown none: "
    "imagedist shows site_client_certificate of agent.toml, seeder.toml or proxy.toml, `imagedist pull` its own option"
)


@web.middleware
async def require_certificate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: no route, and no error of one, comes before it."""
    shown = request.transport.get_extra_info("peercert") if request.transport is not None else None
    if shown or any(app.get(GUARDED_OTHERWISE, False) for app in request.match_info.apps):
        return await handler(request)
    # For both readers: registry clients look for the list, those of the site's API for the one.
    error = {"code": "DENIED", "message": _REFUSAL}
    return web.json_response({"errors": [{**error, "detail": None}], "error": error}, status=403)
