"""When an image's bytes are in a site. Closed form. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bench.simulate.measured import HEADERS, TORRENT_BYTES_PER_SECOND
from bench.simulate.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Supply:
    """All blobs of an image come side by side.

    Attributes:
        begins_at, ends_at: seconds; both 0 in a warm site.
    """

    blob_bytes: int
    begins_at: float
    ends_at: float

    def present_bytes(self, now: float) -> float:
        """Of each blob."""
        if now >= self.ends_at:
            return float(self.blob_bytes)
        return self.blob_bytes * max(0.0, now - self.begins_at) / (self.ends_at - self.begins_at)

    @property
    def torrent_at(self) -> float:
        """When the site has the torrent of each blob: it is made when the blob is whole."""
        return self.ends_at + self.blob_bytes / TORRENT_BYTES_PER_SECOND if self.ends_at else 0.0


def supplies(scenario: Scenario) -> tuple[Supply, ...]:
    """Of each site. Several that ask the registry share its line; those that copy from the first share that one's."""
    if scenario.state == "warm":
        return (Supply(scenario.blob_bytes, 0.0, 0.0),) * scenario.sites
    image = scenario.blob_bytes * scenario.layers * HEADERS
    if scenario.inter_site is None:
        return (Supply(scenario.blob_bytes, 0.0, image * scenario.sites / scenario.upstream),) * scenario.sites
    first = Supply(scenario.blob_bytes, 0.0, image / scenario.upstream)
    copied = image * max(1, scenario.sites - 1) / scenario.inter_site
    other = Supply(scenario.blob_bytes, first.ends_at, first.ends_at + copied)
    return (first, *(other,) * (scenario.sites - 1))
