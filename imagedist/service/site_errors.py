"""Errors of ``/site`` routes as JSON."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from imagedist.errors import (
    ChallengeError,
    ImagedistError,
    InputError,
    IntegrityError,
    NotFoundError,
    OverloadedError,
    SourceError,
    StorageError,
    UnacceptableError,
    UnauthorizedError,
)
from imagedist.service.limits import LIMITS, Limits
from imagedist.service.repeats import Repeats

_LOG = logging.getLogger(__name__)

_REPEATS = Repeats()
_LIMITS = Limits()
_STATUSES: tuple[tuple[type[ImagedistError], int, str], ...] = (
    (NotFoundError, 404, "NOT_FOUND"),
    (ChallengeError, 401, ChallengeError.code),
    (UnauthorizedError, 401, "UNAUTHORIZED"),
    (OverloadedError, 503, "OVERLOADED"),
    (SourceError, 502, "SOURCE_FAILED"),
    (InputError, 400, "BAD_REQUEST"),
    (IntegrityError, 422, "INTEGRITY"),
    (UnacceptableError, 422, "UNACCEPTABLE"),
    (StorageError, 507, "STORAGE_FAILED"),
)


def site_error(status: int, code: str, message: str) -> web.Response:
    """``{"error": {"code": …, "message": …}}``, the body of every failed site request."""
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


@web.middleware
async def render_site_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers the errors of ``/site`` routes, and the guard's of any, as JSON. Comes first in an app's middlewares."""
    is_site = request.path.startswith("/site/")
    try:
        if is_site:
            await _read_body(request)
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400 or not is_site:
            raise
        response = site_error(error.status, error.reason.upper().replace(" ", "_"), error.text or error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ImagedistError as error:
        status, code = next(
            ((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)), (500, "FAILED")
        )
        if status >= 500 and (more := _REPEATS.due(str(error))) is not None:
            _LOG.warning("%s %s: %s%s", request.method, request.path, error, more)
        response = site_error(status, code, str(error))
        if status == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="imagedist site"'
        return response


async def _read_body(request: web.Request) -> None:
    """Before the handler, which finds it read: a body that drips costs nothing but its connection."""
    if not request.can_read_body:
        return
    seconds = request.config_dict.get(LIMITS, _LIMITS).body_seconds
    try:
        async with asyncio.timeout(seconds):
            await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the request's body did not arrive within {seconds:g} s") from error
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text="the request's body is not what its headers say") from error
