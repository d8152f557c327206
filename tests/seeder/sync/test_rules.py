"""Which tags a rule covers, as far as rules alone can tell."""

from __future__ import annotations

from typing import Any

from imagedist.config import SyncRule
from imagedist.oci.digest import Digest
from seeder.moves import Terms
from seeder.sync.rules import ImageFacts, Rule, is_about_subject, subject_of, terms_by_site

SUBJECT = Digest.of(b"image")


def rule(number: int = 0, **table: Any) -> Rule:
    return Rule(number, SyncRule.model_validate({"repositories": ["team/*"], "to": ["sh"], **table}), "local")


def test_repositories_are_matched_whole_and_in_their_registry() -> None:
    some = rule(repositories=["team/*", "/lib-[0-9]+/", "one/app"])
    assert some.has_repository("local", "team/a/b")
    assert some.has_repository("local", "lib-12")
    assert not some.has_repository("local", "lib-x")
    assert not some.has_repository("local", "one/app2")
    assert not some.has_repository("other", "team/a")
    assert some.names == ["one/app"]
    assert some.has_patterns
    assert not rule(repositories=["one/app"]).has_patterns


def test_all_that_is_said_of_tags_must_hold() -> None:
    some = rule(tags={"match": ["v*", "1*"], "semver": ">=1.2"})
    assert some.by_name(["v1.2.0", "1.3.0", "1.1.0", "v2", "2.0.0", "latest"]) == ["v1.2.0", "1.3.0"]


def test_tags_about_other_images_are_never_covered_by_themselves() -> None:
    assert rule().by_name([f"sha256-{SUBJECT.hex}.sig", f"sha256-{SUBJECT.hex}", "1"]) == ["1"]


def test_labels_must_be_there_and_match() -> None:
    some = rule(tags={"labels": {"sync": "y*", "team": "*"}})
    facts = {
        "both": ImageFacts(labels={"sync": "yes", "team": "a"}),
        "one": ImageFacts(labels={"sync": "yes"}),
        "no": ImageFacts(labels={"sync": "no", "team": "a"}),
        "none": ImageFacts(),
    }
    assert some.covered(facts) == ["both"]


def test_the_newest_are_counted_among_those_that_fit_otherwise() -> None:
    facts = {tag: ImageFacts() for tag in ("1.9.0", "1.10.0", "1.2.0")}
    assert rule(tags={"semver": "1.x", "newest": 2}).covered(facts) == ["1.10.0", "1.9.0"]
    dated = {"a": ImageFacts("2026-01-02T00:00:00Z"), "b": ImageFacts("2026-01-03T00:00:00Z"), "c": ImageFacts()}
    assert rule(tags={"newest": 2}).covered(dated) == ["b", "a"]


def test_for_each_site_the_first_rule_decides() -> None:
    first = rule(0, to=["sh"], platforms=["linux/amd64"])
    second = rule(1, to=["sh", "gz"], delete=True)
    assert terms_by_site([first, second]) == {"sh": Terms(platforms=("linux/amd64",)), "gz": Terms(delete=True)}


def test_the_subject_of_a_tag_is_found_among_what_is_covered() -> None:
    other = Digest.of(b"other")
    sha512 = Digest.of(b"image", "sha512")
    assert subject_of(f"sha256-{SUBJECT.hex}.sbom", [other, SUBJECT]) == SUBJECT
    assert subject_of(f"sha256-{SUBJECT.hex}", [SUBJECT]) == SUBJECT
    assert subject_of(f"sha512-{sha512.hex[:64]}", [SUBJECT, sha512]) == sha512  # the referrers tag schema cuts it
    assert subject_of(f"sha256-{SUBJECT.hex}.sig", [other]) is None
    assert subject_of("1.2.3", [SUBJECT]) is None
    assert is_about_subject(f"sha256-{SUBJECT.hex}.att")
    assert not is_about_subject("sha256-abc")
