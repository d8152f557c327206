"""Every registry and health answer of a service says which service it was, and whom it asked: ``imagedist.hops``."""

from __future__ import annotations

from aiohttp import web

from imagedist import __version__

HOP: web.AppKey[str] = web.AppKey("hop", str)
"""As the header names this service. A middleware that stamped every answer would cost a fifth of a small one's time."""


def trace_hops(app: web.Application, name: str) -> None:
    """Names the service, before its routes are added.

    Args:
        name: ``agent``, ``proxy`` or ``seeder``.
    """
    app[HOP] = f"{name}/{__version__}"
