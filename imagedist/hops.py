"""Which of our processes an answer came through: the header ``X-Imagedist-Hops``, nearest first.

``agent/0.1.0, proxy/0.1.0, upstream`` went all the way to the registry; ``agent/0.1.0`` alone was in the node's cache.
``imagedist doctor`` reads it, and so may anybody with curl.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar

HEADER = "X-Imagedist-Hops"
UPSTREAM = "upstream"
"""Any server that does not name itself by the header."""

_LIMIT = 8
_HOP = re.compile(r"[a-z]{1,20}(/[0-9A-Za-z.+-]{1,40})?\Z")
_beyond: ContextVar[list[str] | None] = ContextVar("hops", default=None)


def begin() -> None:
    """A request of somebody else begins: nobody was asked for it yet."""
    _beyond.set([])  # one list per request; what it waits for in tasks of its own adds to it, too


def line(own: str) -> str:
    """The header's value for the answer to that request."""
    beyond = _beyond.get()
    return ", ".join([own, *beyond]) if beyond else own


def heard(headers: Mapping[str, str]) -> None:
    """Notes, for the request that is being answered, who answered us."""
    beyond = _beyond.get()
    if beyond is not None:
        beyond[:] = parse_hops(headers.get(HEADER)) or [UPSTREAM]


def parse_hops(value: str | None) -> list[str]:
    """``name/version`` of each hop; none if the header is missing or not of this form."""
    hops = [hop.strip() for hop in (value or "").split(",")][:_LIMIT]
    return hops if all(_HOP.match(hop) for hop in hops) else []
