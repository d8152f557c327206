"""``imagedist limit --seeder``: the caps on what leaves the site's host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imagedist.cli.seeder_options import ask_seeder

if TYPE_CHECKING:
    from imagedist.site_limits import SiteLimit, SiteLimits


def site_limits(
    egress: str | None,
    upload: str | None,
    reset: bool,
    seeder: list[str] | None,
    token_file: Path | None,
    socket: Path | None,
) -> SiteLimits:
    """Changes what is named, and says what holds.

    Raises:
        InputError: not a rate. SourceError: no seeder answers, or it refuses.
    """
    from imagedist.config.values import parse_rate
    from imagedist.site_limits import SiteLimits, SiteLimitsOrder

    for rate in (egress, upload):
        if rate is not None:
            parse_rate(rate)
    if egress is None and upload is None and not reset:
        return ask_seeder(lambda site: site.call("GET", "limits", SiteLimits), seeder, token_file, None, socket)
    order = SiteLimitsOrder(egress=egress, upload=upload, reset=reset).model_dump(mode="json", exclude_none=True)
    return ask_seeder(lambda site: site.call("PATCH", "limits", SiteLimits, order), seeder, token_file, None, socket)


def site_limits_text(limits: SiteLimits) -> str:
    """One row for each cap."""
    from imagedist.render import decimal, table

    def rate(bytes_per_second: int | None) -> str:
        return "none" if bytes_per_second is None else f"{decimal(bytes_per_second)}/s"

    def row(name: str, limit: SiteLimit, then: str) -> tuple[str, ...]:
        is_ordered = limit.bytes_per_second != limit.configured_bytes_per_second
        source = (
            f"a command{then}; the file says {rate(limit.configured_bytes_per_second)}" if is_ordered else "the file"
        )
        return name, rate(limit.bytes_per_second), source

    rows = [
        row("egress (proxy and seeder)", limits.egress, ""),
        row("upload (seeder)", limits.upload, ", until the seeder ends"),
    ]
    return table(("SITE", "LIMIT", "BY"), rows)
