"""``[[sync]]`` and ``[transfer]`` of ``seeder.toml``: which tags go to which sites, and what sync takes of the link."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from imagedist.config.ranges import Range
from imagedist.config.schedules import Cron, DayHours, Days
from imagedist.config.tagging import Pattern, parse_pattern
from imagedist.config.values import Rate, Table

_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9.]+)?\Z")


def _check_pattern(text: str) -> str:
    parse_pattern(text)
    return text


def _check_platform(text: str) -> str:
    if not _PLATFORM.match(text):
        raise ValueError(f'expected a platform such as "linux/amd64" or "linux/arm64/v8", got {text!r}')
    return text


PatternText = Annotated[str, AfterValidator(_check_pattern)]
"""A glob, or a regular expression between slashes."""
PlatformText = Annotated[str, AfterValidator(_check_platform)]


class SyncTags(Table):
    """Which tags of a repository: those that all of these allow."""

    match: tuple[Pattern, ...] = ()
    """Globs, or regular expressions between slashes, of the whole tag. None: all."""
    semver: Range | None = None
    """A range of versions as npm writes it."""
    newest: int | None = Field(default=None, ge=1)
    """So many at most: with ``semver`` the highest versions, else those whose images were made last."""
    labels: dict[str, Pattern] = {}
    """Labels that the image's config must have; values are globs or regular expressions."""


class SyncRule(Table):
    """One ``[[sync]]``: what of a registry of this site goes to which sites. For each tag and site the first rule that
    matches decides."""

    model_config = ConfigDict(populate_by_name=True)

    repositories: tuple[PatternText, ...] = Field(min_length=1)
    """Globs, or regular expressions between slashes, of the whole name, without the registry's."""
    tags: SyncTags = SyncTags()
    to: tuple[str, ...] = Field(min_length=1)
    """Names of ``[sites]`` and ``[backups]``; this site's own name: a copy is kept here."""
    source: str | None = Field(default=None, alias="from")
    """The registry, as the proxy's ``[upstreams]`` calls it. None: the proxy's default upstream."""
    platforms: tuple[PlatformText, ...] = ()
    """Of images for several: those that go. None: all."""
    referrers: bool = True
    """Whether signatures, SBOMs and the like go along with what they are about."""
    delete: bool = False
    """Whether a tag that is deleted, or not covered any more, goes at the other sites as well."""
    schedule: Cron | None = None
    """When the registry is looked through, beside what webhooks tell."""


class TransferHours(Table):
    """A cap for some hours of the day; the first that fits decides."""

    at: DayHours
    days: Days = frozenset(range(7))
    bandwidth: Rate


class TransferTable(Table):
    """What sync may take for itself of this site's links."""

    bandwidth: Rate = None
    """Bytes per second that come into this site for sync."""
    hours: tuple[TransferHours, ...] = ()
    """Other caps for some hours of the day."""
    images_at_once: int = Field(default=4, ge=1, le=64)
    blobs_at_once: int = Field(default=6, ge=1, le=64)


def check_rules(rules: tuple[SyncRule, ...], sites: set[str], own: str, backups: set[str]) -> None:
    """What only all rules together can tell.

    Raises:
        ValueError: a rule names an unknown site, or never decides anything.
    """
    seen: dict[Any, int] = {}
    for number, rule in enumerate(rules):
        for name in rule.to:
            if name not in sites | backups | {own}:
                known = ", ".join(sorted(sites | backups)) or "none yet"
                raise ValueError(
                    f"sync.{number}.to names {name!r}, which is no site and no backup: add [sites.{name}] or "
                    f"[backups.{name}], or name one of: {known}, or {own!r} for this site"
                )
            for repository in rule.repositories:
                tags = rule.tags.model_dump_json(exclude={"match", "labels"})
                patterns = tuple(each.pattern for each in rule.tags.match)
                labels = tuple((key, each.pattern) for key, each in sorted(rule.tags.labels.items()))
                key = (rule.source, repository, tags, patterns, labels, name)
                first = seen.setdefault(key, number)
                if first != number:
                    raise ValueError(
                        f"sync.{number} says again what sync.{first} says of {repository} to {name}, and the first "
                        "decides: remove one of them"
                    )
