"""What a site's seeder says of the caps on what leaves the site's host, and how they are changed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SiteLimit(BaseModel):
    """Bytes per second; None: no cap. ``configured``: what the file says, and what ``reset`` goes back to."""

    model_config = ConfigDict(frozen=True)

    bytes_per_second: int | None
    configured_bytes_per_second: int | None


class SiteLimits(BaseModel):
    """``GET /site/v1/limits``.

    Attributes:
        egress: of proxy and seeder together.
        upload: of the seeder alone.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    egress: SiteLimit
    upload: SiteLimit


class SiteLimitsOrder(BaseModel):
    """``PATCH /site/v1/limits``. Rates as in a configuration: ``100MB/s``, ``none``; what is not named stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    egress: str | None = None
    upload: str | None = None
    reset: bool = False
    """First both back to what the files say."""
