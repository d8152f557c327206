"""How long a tag's answer is kept, from the rules of its upstream. Pure."""

from __future__ import annotations

from typing import NamedTuple

from imagedist.config import Upstream, matches


class TagPolicy(NamedTuple):
    """
    Attributes:
        is_kept: whether anything is remembered.
        fresh_seconds: how long it is given without asking upstream; infinite for a pinned tag.
        stale_seconds: how old it may be when upstream fails.
    """

    is_kept: bool
    fresh_seconds: float
    stale_seconds: float


def tag_policy(settings: Upstream, repository: str, tag: str) -> TagPolicy:
    """The first rule that matches decides; what it leaves open, and what none matches, is the upstream's own."""
    ttl, stale = settings.tag_ttl, settings.stale_if_error
    for rule in settings.tags:
        if matches(rule.repositories, repository) and matches(rule.tags, tag):
            ttl = ttl if rule.ttl is None else rule.ttl
            stale_seconds = (stale if rule.stale_if_error is None else rule.stale_if_error).total_seconds()
            fresh_seconds = {"pin": float("inf"), "revalidate": 0.0}.get(rule.policy, ttl.total_seconds())
            return TagPolicy(rule.policy != "never", fresh_seconds, stale_seconds)
    return TagPolicy(True, ttl.total_seconds(), stale.total_seconds())
