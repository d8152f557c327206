"""``GET /announce`` and ``GET /scrape``, open to every node; failures are bencoded, as BEP 3 wants them."""

from __future__ import annotations

import logging
from urllib.parse import unquote_to_bytes

from aiohttp import web

from imagedist.errors import ImagedistError, InputError, OverloadedError
from imagedist.metrics import ANNOUNCES
from imagedist.swarm import bencode
from seeder.tracker.announce import Announce
from seeder.tracker.tracker import RefusedError, Tracker

_LOG = logging.getLogger(__name__)

_MAX_SCRAPED = 100
_ANSWERED, _STOPPED, _MALFORMED, _FULL, _FAILED = (
    ANNOUNCES.labels(outcome=outcome) for outcome in ("answered", "stopped", "malformed", "full", "failed")
)


_RETRY_SECONDS = 5
"""A torrent that the site has just made may be known a moment later, room may be made, networks changed."""


def add_tracker_routes(app: web.Application, tracker: Tracker) -> None:
    async def announce(request: web.Request) -> web.StreamResponse:
        peer, reached = _addresses(request)
        try:
            parsed = Announce.parse(request.rel_url.raw_query_string, peer, reached)
            response = _bencoded(await tracker.answer(parsed))
        except ImagedistError as error:
            return _refused(error)
        await response.prepare(request)
        await response.write_eof()
        try:
            await tracker.admit(parsed)
        except ImagedistError as error:  # answered it is; it announces again within the interval
            _LOG.warning("cannot remember peer %s: %s", peer, error)
        (_STOPPED if parsed.is_stopped else _ANSWERED).inc()
        return response

    async def scrape(request: web.Request) -> web.Response:
        pairs = (pair.partition("=") for pair in request.rel_url.raw_query_string.split("&"))
        infohashes = [unquote_to_bytes(value) for key, _, value in pairs if key == "info_hash"]
        if not infohashes or len(infohashes) > _MAX_SCRAPED:
            return _failure(f"info_hash: expected 1 to {_MAX_SCRAPED} of them")
        try:
            return _bencoded(await tracker.scrape(infohashes))
        except ImagedistError as error:
            return _failure(str(error))

    app.add_routes([web.get("/announce", announce), web.get("/scrape", scrape)])


def _refused(error: ImagedistError) -> web.Response:
    if isinstance(error, RefusedError):
        ANNOUNCES.labels(outcome=error.reason).inc()
    elif isinstance(error, InputError):
        _MALFORMED.inc()
    elif isinstance(error, OverloadedError):
        _FULL.inc()
    else:
        _FAILED.inc()
        _LOG.warning("announce not answered: %s", error)
    return _failure(str(error))


def _failure(reason: str) -> web.Response:
    """With an interval beside the reason: libtorrent waits for half an hour after a failure that has none."""
    return _bencoded(bencode.encode({b"failure reason": reason.encode(), b"interval": _RETRY_SECONDS}))


def _addresses(request: web.Request) -> tuple[str, str]:
    """The hosts at both ends of the connection. Forwarded headers are not believed."""
    peer, reached = (
        request.transport.get_extra_info(name) if request.transport else None for name in ("peername", "sockname")
    )
    if not isinstance(peer, tuple) or not isinstance(reached, tuple):
        raise web.HTTPBadRequest(text="announces come over TCP")
    return str(peer[0]), str(reached[0])


def _bencoded(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="text/plain")
