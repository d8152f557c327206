"""Rendezvous hashing: which seeders seed a blob."""

from __future__ import annotations

from collections import Counter

from imagedist.oci.digest import Digest
from registry_proxy.replicas import ranked

SEEDERS = [f"http://10.0.0.{number}:5002" for number in range(1, 6)]
DIGESTS = [Digest.of(bytes([number % 256, number // 256])) for number in range(2000)]


def test_the_order_in_which_seeders_are_configured_does_not_matter() -> None:
    assert all(ranked(digest, SEEDERS) == ranked(digest, reversed(SEEDERS)) for digest in DIGESTS[:100])


def test_every_seeder_has_its_share() -> None:
    firsts = Counter(ranked(digest, SEEDERS)[0] for digest in DIGESTS)
    assert all(0.8 < firsts[seeder] * len(SEEDERS) / len(DIGESTS) < 1.2 for seeder in SEEDERS)


def test_when_one_goes_only_its_blobs_change_hands() -> None:
    for digest in DIGESTS[:500]:
        before = ranked(digest, SEEDERS)
        assert ranked(digest, SEEDERS[1:]) == [each for each in before if each != SEEDERS[0]]
