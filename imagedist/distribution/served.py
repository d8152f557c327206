"""What the surface notes about a request while it answers it, for metrics and the access log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aiohttp import web


@dataclass(slots=True)
class Served:
    """One request of ``/v2``.

    Attributes:
        route: ``manifest``, ``blob``, ``tags``, ``referrers``, ``base`` or ``refused``.
        reference: a tag or a digest.
        source: ``hit``: it was here, whole; ``miss``: it was asked for, or still on its way; empty: neither.
        sent_bytes: of a blob, so far. first_byte_at: of a blob, by the event loop's clock.
        error: why it was not answered as asked.
    """

    route: str
    namespace: str = ""
    repository: str = ""
    reference: str = ""
    source: Literal["hit", "miss", ""] = ""
    sent_bytes: int | None = None
    first_byte_at: float | None = None
    error: str = ""


SERVED: web.RequestKey[Served] = web.RequestKey("served", Served)
