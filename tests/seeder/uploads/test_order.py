"""Which torrent has the site's line first."""

from __future__ import annotations

from imagedist.oci.digest import Digest
from imagedist.swarm.torrent import TorrentFacts
from seeder.uploads.offers import Host, Offers, Pace
from seeder.uploads.order import most_wanted_first

NOW = 100.0


def torrent(peers: int, copies_sent: float = 0.0, waited_seconds: float = 0.0) -> Offers:
    facts = TorrentFacts(Digest.of(b"blob"), 1000, 100, bytes(32))
    offers = Offers(facts, Pace(), lambda: NOW)
    for _ in range(peers):
        taker = offers.join(Host(lambda: NOW), (), lambda piece: None)
        offers.sent(taker, 0, round(copies_sent * 1000 / peers))
    offers.offered_at = NOW - waited_seconds
    return offers


def test_what_most_peers_lack_goes_first() -> None:
    few, many = torrent(peers=2), torrent(peers=5)
    assert most_wanted_first([few, many], NOW) == [many, few]


def test_what_was_sent_already_counts_against_it() -> None:
    fresh, served = torrent(peers=4), torrent(peers=9, copies_sent=2)
    assert most_wanted_first([served, fresh], NOW) == [fresh, served]


def test_no_torrent_waits_for_ever() -> None:
    lone, many = torrent(peers=1, waited_seconds=2.5), torrent(peers=50)
    assert most_wanted_first([many, lone], NOW) == [lone, many]
