"""Errors as the distribution spec's JSON: the one place that turns our tree into HTTP."""

from __future__ import annotations

import random

from aiohttp import web

from imagedist.errors import (
    ChallengeError,
    ImagedistError,
    InputError,
    IntegrityError,
    NotFoundError,
    OverloadedError,
    SourceError,
    UnacceptableError,
    UnauthorizedError,
)

# First match wins. Never 429 or 408: containerd asks the same host again at once; all of these send it on.
# An upstream that wants our credentials is a 403 of ours: a 401 asks the client for its own, which only some take.
_STATUSES: tuple[tuple[type[ImagedistError], int, str], ...] = (
    (ChallengeError, 401, "UNAUTHORIZED"),
    (UnauthorizedError, 403, "DENIED"),
    (OverloadedError, 503, "UNAVAILABLE"),
    (SourceError, 502, "UNAVAILABLE"),
    (IntegrityError, 502, "DIGEST_INVALID"),
    (UnacceptableError, 502, "MANIFEST_INVALID"),
    (InputError, 400, "UNSUPPORTED"),
)


def refuse(status: int, code: str, message: str) -> web.Response:
    """``{"errors": [{"code": …, "message": …, "detail": null}]}``"""
    return web.json_response({"errors": [{"code": code, "message": message, "detail": None}]}, status=status)


def render(error: ImagedistError) -> web.Response:
    """The answer that an error of our tree deserves; 500 when it is our own disk's."""
    if isinstance(error, NotFoundError):
        return refuse(404, error.code, str(error))
    status, code = next(
        ((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)), (500, "UNKNOWN")
    )
    response = refuse(status, code, str(error))
    if status == 503:
        response.headers["Retry-After"] = str(random.randint(1, 5))
    return response


def warning_header(text: str) -> str:
    """``Warning: 299 - "…"``, which clients show to their users; quotes, controls and non-ASCII are replaced."""
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "'" for letter in text)
    return f'299 - "{plain[:500]}"'
