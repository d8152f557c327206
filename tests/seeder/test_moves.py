"""How sites agree on what a tag means: whatever they hear in whatever order, they end with the same."""

from __future__ import annotations

import itertools
import random

import pytest

from imagedist.oci.digest import Digest
from seeder.moves import Meaning, Settled, Terms, moved, relation, settle

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {}, "same"),
        ({"a": 1}, {"a": 1}, "same"),
        ({"a": 2}, {"a": 1}, "newer"),
        ({"a": 1, "b": 1}, {"a": 1}, "newer"),
        ({"a": 1}, {"a": 1, "b": 1}, "older"),
        ({"a": 2}, {"a": 1, "b": 1}, "apart"),
    ],
)
def test_one_meaning_contains_another_or_they_are_apart(
    one: dict[str, int], other: dict[str, int], expected: str
) -> None:
    assert relation(one, other) == expected


def test_a_journal_that_was_made_anew_counts_on_above_what_it_told_before() -> None:
    told = moved(moved({}, "a", 1000), "a", 1000)
    assert told == {"a": 1001}
    assert relation(moved({}, "a", 5000), told) == "newer"


def test_what_is_older_or_known_changes_nothing() -> None:
    held = Meaning(ONE, "a", {"a": 2})
    assert settle(held, held).meaning is None
    assert settle(held, Meaning(TWO, "a", {"a": 1})).meaning is None


def test_of_a_conflict_the_site_whose_name_sorts_first_wins_and_the_other_is_told() -> None:
    ours, theirs = Meaning(ONE, "a", {"a": 1}), Meaning(TWO, "b", {"b": 9})
    for held, told in ((ours, theirs), (theirs, ours)):
        settled = settle(held, told)
        assert settled.meaning == Meaning(ONE, "a", {"a": 1, "b": 9})
        assert settled.lost == theirs


def test_a_tag_wins_over_its_deletion() -> None:
    deleted, kept = Meaning(None, "a", {"a": 1}), Meaning(TWO, "b", {"b": 1})
    assert settle(deleted, kept).meaning == Meaning(TWO, "b", {"a": 1, "b": 1})
    assert settle(kept, deleted).lost == deleted


def test_the_same_digest_from_two_sites_is_no_conflict() -> None:
    ours = Meaning(ONE, "a", {"a": 1}, {"b": Terms()})
    theirs = Meaning(ONE, "b", {"b": 1}, {"a": Terms(delete=True)})
    settled = settle(ours, theirs)
    assert settled.lost is None
    assert settled.meaning == Meaning(ONE, "a", {"a": 1, "b": 1}, {"a": Terms(delete=True), "b": Terms()})


@pytest.mark.parametrize("seed", range(20))
def test_sites_that_tell_each_other_all_they_hold_end_with_the_same(seed: int) -> None:
    chance = random.Random(seed)
    held: dict[str, Meaning | None] = dict.fromkeys("abc")
    for _ in range(chance.randint(1, 30)):
        if chance.random() < 0.5:
            site = chance.choice("abc")
            before = held[site]
            digest = chance.choice([ONE, TWO, Digest.of(b"3"), None])
            held[site] = Meaning(digest, site, moved(before.versions if before else {}, site, 0))
        else:
            _tell(held, *chance.sample("abc", 2))
    for _ in range(3):
        for one, other in itertools.permutations("abc", 2):
            _tell(held, one, other)
    meanings = list(held.values())
    assert meanings[0] == meanings[1] == meanings[2]


def _tell(held: dict[str, Meaning | None], one: str, other: str) -> None:
    told = held[one]
    if told is not None:
        held[other] = settle(held[other], told).meaning or held[other]


@pytest.mark.parametrize("clock_ms", [1, 10**15])
def test_clocks_that_disagree_decide_nothing(clock_ms: int) -> None:
    """One site's journal was born in 1970, or in the year 33658."""
    first = Meaning(ONE, "bj", moved({}, "bj", clock_ms))
    later = Meaning(TWO, "sh", moved(first.versions, "sh", 1_700_000_000_000))
    assert settle(first, later) == Settled(later)
    assert settle(later, first) == Settled(None)
    unaware = Meaning(TWO, "sh", moved({}, "sh", 1_700_000_000_000))
    for held, told in ((first, unaware), (unaware, first)):
        settled = settle(held, told)
        assert settled.meaning is not None
        assert (settled.meaning.origin, settled.lost) == ("bj", unaware)
