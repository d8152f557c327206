"""Which torrent gets the next piece's worth of the site's line. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from seeder.uploads.offers import Offers

_WAITED_SECONDS = 2.0


def most_wanted_first(torrents: Iterable[Offers], now: float) -> list[Offers]:
    """The one with the most incomplete peers for the copies sent goes first: there a copy serves the most nodes.

    One that offered nothing for two seconds goes before all others, so that a lone node waits no longer than that.
    """
    return sorted(torrents, key=lambda offers: _key(offers, now))


def _key(offers: Offers, now: float) -> tuple[bool, float]:
    has_waited = now - offers.offered_at > _WAITED_SECONDS
    return not has_waited, -offers.incomplete / (1 + offers.copies_sent)
