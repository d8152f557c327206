"""A JSON list of a registry, passed on as it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """A JSON answer passed on from upstream: tags/list or referrers, with its ``Link`` and filter headers."""

    body: bytes
    media_type: str
    link: str | None = None
    filters_applied: str | None = None
