"""How long a client may take over each thing, and how many may be connected: the values, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listening process.

    Attributes:
        head_seconds: from the connection, or from a request's first byte, to the end of its headers.
        idle_seconds: between two requests on one connection. Longer than Go's clients keep theirs (90 s), so that
            they are the ones who close.
        stall_seconds: an answer of which the client takes nothing for so long is given up.
        handshake_seconds: for TLS.
        body_seconds: for the body of a site request: the largest is a torrent of some 100 KiB.
    linger_seconds: how long a body that nobody asked for is read before the connection ends.
        connections: so many at a time; further ones wait in the kernel's queue.
        sweep_seconds: how often all connections are looked at: the bounds hold to within this.
    """

    head_seconds: float = 10.0
    idle_seconds: float = 95.0
    stall_seconds: float = 120.0
    handshake_seconds: float = 10.0
    body_seconds: float = 30.0
    linger_seconds: float = 2.0
    connections: int = 10_000
    sweep_seconds: float = 1.0


LIMITS: web.AppKey[Limits] = web.AppKey("limits", Limits)

TLS_UNSENT_BYTES = 32 << 10
"""What is encrypted ahead for a client that does not read; asyncio's 512 KiB are half a GB for 1,000 of them."""
MAX_LINE_BYTES = 8 << 10
"""The request line: a name of 255 bytes and a digest of sha512 fit many times."""
MAX_FIELD_BYTES = 16 << 10
"""One header field: tokens of cloud registries have 2 to 8 KiB."""
MAX_FIELDS = 64
