"""Which tags a rule covers, and on what terms each site gets them. Pure: whoever asks knows the registry's answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imagedist.config import SyncRule, newest_versions, parse_pattern
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name
from seeder.moves import Terms

_ABOUT_SUBJECT = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\.[a-z0-9]+)?\Z")
"""Tags that say of which digest they are: the referrers tag schema (distribution spec) and cosign's ``.sig``, ``.att``,
``.sbom``."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image's config says. ``created``: RFC 3339, as it stands there; empty: it does not say."""

    created: str = ""
    labels: Mapping[str, str] | None = None


class Rule:
    """One ``[[sync]]``, ready to decide.

    Attributes:
        number: its place in the file. upstream: the registry, as the site's proxy calls it.
    """

    def __init__(self, number: int, table: SyncRule, upstream: str) -> None:
        self.number = number
        self.upstream = upstream
        self.table = table
        self._patterns = [parse_pattern(text) for text in table.repositories]
        self.terms = Terms(platforms=table.platforms, referrers=table.referrers, delete=table.delete)

    def __repr__(self) -> str:
        return f"<Rule {self.number}: {self.upstream}/{', '.join(self.table.repositories)}>"

    @property
    def names(self) -> list[str]:
        """The repositories that are named in full."""
        return [text for text in self.table.repositories if is_name(text)]

    @property
    def has_patterns(self) -> bool:
        """Whether the registry must be asked which repositories it has."""
        return len(self.names) < len(self.table.repositories)

    @property
    def needs_all_tags(self) -> bool:
        """Whether one tag cannot be judged without the others."""
        return self.table.tags.newest is not None

    @property
    def needs_facts(self) -> bool:
        tags = self.table.tags
        return bool(tags.labels) or (tags.newest is not None and tags.semver is None)

    def has_repository(self, upstream: str, repository: str) -> bool:
        return upstream == self.upstream and any(pattern.fullmatch(repository) for pattern in self._patterns)

    def by_name(self, tags: Iterable[str]) -> list[str]:
        """Those that may be covered, as far as their names tell."""
        allowed = self.table.tags
        return [
            tag
            for tag in tags
            if not is_about_subject(tag)
            and (not allowed.match or any(pattern.fullmatch(tag) for pattern in allowed.match))
            and (allowed.semver is None or allowed.semver.has(tag))
        ]

    def covered(self, facts: Mapping[str, ImageFacts]) -> list[str]:
        """Of tags that ``by_name`` gave, those that are covered.

        Args:
            facts: of each; what they say counts only where ``needs_facts``.
        """
        allowed = self.table.tags
        tags = [tag for tag in facts if self._has_labels(facts[tag])]
        if allowed.newest is None:
            return tags
        if allowed.semver is not None:
            return newest_versions(tags, allowed.newest)
        return sorted(tags, key=lambda tag: (facts[tag].created, tag), reverse=True)[: allowed.newest]

    def _has_labels(self, facts: ImageFacts) -> bool:
        labels = facts.labels or {}
        return all(key in labels and pattern.fullmatch(labels[key]) for key, pattern in self.table.tags.labels.items())


def terms_by_site(rules: Sequence[Rule]) -> dict[str, Terms]:
    """What each site gets a tag on, that these rules cover: the first that names the site decides."""
    terms: dict[str, Terms] = {}
    for rule in rules:
        for site in rule.table.to:
            terms.setdefault(site, rule.terms)
    return terms


def is_about_subject(tag: str) -> bool:
    return _ABOUT_SUBJECT.match(tag) is not None


def referrers_tag(subject: Digest) -> str:
    """The tag under which a list of referrers stands ("Referrers Tag Schema" of the distribution spec)."""
    return f"{subject.algorithm}-{subject.hex[:64]}"


def subject_of(tag: str, digests: Iterable[Digest]) -> Digest | None:
    """The one of the digests that the tag is about: a signature's, an SBOM's, the list of referrers'."""
    match = _ABOUT_SUBJECT.match(tag)
    if match is None:
        return None
    algorithm, beginning = match.groups()
    return next((each for each in digests if each.algorithm == algorithm and each.hex.startswith(beginning)), None)
