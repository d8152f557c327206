"""How clients are asked for their credentials, and what they then send.

A client of a mirror is challenged for a *token* of our own realm (distribution token specification), even where the
upstream wants Basic: Docker with a Basic challenge and no login gives the mirror up at once, with a token realm it asks
anonymously first. The token is what the client sent to the realm, unchanged: nothing is stored, every process of every
proxy can read it, and it says no more than Basic does with every request.
"""

from __future__ import annotations

import asyncio
import base64
import re
from urllib.parse import parse_qsl

from aiohttp import web

TOKEN_PATH = "/token"
_SERVICE = "imagedist"
_ANONYMOUS = "imagedist"
_PREFIX = "imagedist."
"""Of a token that holds Basic credentials; what follows is base64, as in ``Basic``."""
_LIFE_SECONDS = 3600
_FORM_SECONDS = 30.0
"""For the form to arrive."""
_HOST = re.compile(r"[A-Za-z0-9.\[\]:_-]{1,255}\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z")
_PRINTABLE = re.compile(r"[\x21-\x7e][\x20-\x7e]*\Z")
_NOBODY = "Og=="
"""Basic with an empty name and password: what podman sends when it has no login."""


def sent_authorization(request: web.Request) -> str | None:
    """The client's credentials as an upstream understands them; None: it has none.

    What it got from our realm becomes Basic again; Basic and tokens of others (``Bearer``) stay as they are.
    """
    header = request.headers.get("Authorization", "")
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        if value == _ANONYMOUS:
            return None
        if value.startswith(_PREFIX):
            scheme, value = "basic", value.removeprefix(_PREFIX)
    if scheme.lower() == "basic":
        return f"Basic {value}" if value != _NOBODY and _BASE64.match(value) else None
    return header.strip() if _PRINTABLE.match(header.strip()) else None


def challenge(request: web.Request, scope: str | None = None) -> str:
    """The ``WWW-Authenticate`` of a 401.

    Args:
        scope: ``repository:NAME:pull``, by the name that the client uses.
    """
    host = request.host if _HOST.match(request.host) else "localhost"
    is_tls = request.scheme == "https" or request.headers.get("X-Forwarded-Proto") == "https"
    parameters = {"realm": f"{'https' if is_tls else 'http'}://{host}{TOKEN_PATH}", "service": _SERVICE}
    if scope is not None:
        parameters["scope"] = scope
    if sent_authorization(request) is not None:
        parameters["error"] = "invalid_token"  # or containerd sends the same again, four times
    return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parameters.items())


async def give_token(request: web.Request) -> web.Response:
    """``GET`` or ``POST /token``: what the client sent, as a token. Whether it is good for anything, the upstream says
    later. By POST (OAuth 2) containerd sends passwords, and Docker what registries gave it instead of one."""
    authorization = sent_authorization(request)
    if request.method == "POST":
        form = await _form(request)
        if form is None:
            return web.json_response({"error": "invalid_request"}, status=400)
        if form.get("grant_type") == "refresh_token":
            authorization = _basic("", form.get("refresh_token", ""))
        elif form.get("grant_type") == "password":
            authorization = _basic(form.get("username", ""), form.get("password", ""))
        else:
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
    if authorization is None:
        token = _ANONYMOUS
    elif authorization.startswith("Basic "):
        token = _PREFIX + authorization.removeprefix("Basic ")
    else:
        token = authorization.partition(" ")[2].strip()
    body = {"token": token, "access_token": token, "expires_in": _LIFE_SECONDS}
    return web.json_response(body, headers={"Cache-Control": "no-store"})


async def _form(request: web.Request) -> dict[str, str] | None:
    """What was sent ``application/x-www-form-urlencoded`` (RFC 6749 §4.3.2). None: it is none, or does not arrive."""
    try:
        async with asyncio.timeout(_FORM_SECONDS):
            return dict(parse_qsl((await request.read()).decode()))
    except (web.RequestPayloadError, TimeoutError, ValueError):
        return None


def _basic(username: str, password: str) -> str | None:
    """With an empty name: an identity token, as ``oci.auth.parse_basic`` reads it."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}" if password else None
