"""Who may change a site's state, and read what names private images: holders of the site token (design.md §4.2).

Without one configured, this host.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from types import MappingProxyType

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from imagedist.errors import UnauthorizedError

_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED_HEADERS = ("Forwarded", "X-Forwarded-For", "Origin")


def require_site_token(
    token: str | None,
    *,
    secret: Collection[str] = (),
    tokens: Mapping[str, str] = MappingProxyType({}),
    readers: Mapping[str, str] = MappingProxyType({}),
) -> Middleware:
    """A middleware that guards every request of a changing method, so that no new route can forget it.

    Args:
        token: the site token (``config.read_secret(site_token_file)``). None: loopback and Unix sockets only.
        secret: paths that are guarded when they are read, too, with all below them: they name what not everyone may
            know of.
        tokens: by path, another token than the site's: of those who may do that and nothing else.
        readers: by path, a token besides the site's that is enough to read it.

    Raises (inside the handler chain, for ``service.render_site_errors`` to answer 401):
        UnauthorizedError: no token, a wrong one, or not from this host while none is configured.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_reading = request.method in _READING_METHODS
        if is_reading and not any(request.path == each or request.path.startswith(f"{each}/") for each in secret):
            return await handler(request)
        if is_reading and (reader := readers.get(request.path)) is not None and _bears(request, reader):
            return await handler(request)
        what = f"{request.method} {request.path}"
        expected = tokens.get(request.path, token)
        if expected is None:
            if not _is_local(request):
                raise UnauthorizedError(
                    f"refused {what}: this service has no site_token_file, so only its own host may ask that"
                )
        elif not _bears(request, expected):
            which = "the token of its own" if request.path in tokens else "the site token"
            raise UnauthorizedError(f"refused {what}: expected {which} in 'Authorization: Bearer …'")
        return await handler(request)

    return guard


def _bears(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Bytes, because compare_digest refuses non-ASCII strings and a header may hold anything.
    given_bytes = given.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(given_bytes, token.encode())


def _is_local(request: web.Request) -> bool:
    """Whether a process of this host asks for itself: neither a reverse proxy nor a web page in a browser here."""
    if request.transport is None or any(name in request.headers for name in _FORWARDED_HEADERS):
        return False
    peer = request.transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return True  # a Unix socket, which file permissions guard
    host = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return (mapped or host).is_loopback
