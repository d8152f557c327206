"""How a proxy keeps what tags mean: rules by repository and tag, the first match wins."""

from __future__ import annotations

import fnmatch
import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from imagedist.config.values import Duration, Table, parse_duration


def parse_pattern(value: Any) -> re.Pattern[str]:
    """``team/*`` is a glob, in which ``*`` matches slashes too; ``/v\\d+/`` a regular expression of the whole name."""
    if isinstance(value, re.Pattern):
        return value
    text = str(value)
    is_regex = len(text) > 1 and text.startswith("/") and text.endswith("/")
    try:
        return re.compile(text[1:-1] if is_regex else fnmatch.translate(text))
    except re.error as error:
        raise ValueError(f"expected a glob, or a regular expression between slashes, got {text!r}: {error}") from error


def _parse_stale(value: Any) -> timedelta:
    if value is True or value is False:
        return timedelta.max if value else timedelta(0)
    return parse_duration(value)


Pattern = Annotated[re.Pattern[str], BeforeValidator(parse_pattern)]
StaleAge = Annotated[timedelta, BeforeValidator(_parse_stale)]
"""How old an answer may be that is given while upstream fails: ``true`` any age, ``false`` none, or a duration."""


def matches(patterns: tuple[re.Pattern[str], ...], name: str) -> bool:
    """Whether one of them matches the whole name; none given: every name."""
    return not patterns or any(pattern.fullmatch(name) for pattern in patterns)


class TagRule(Table):
    """One ``[[upstreams.NAME.tags]]``. What it does not say is as the upstream's table says."""

    repositories: tuple[Pattern, ...] = ()
    """Without the upstream's name; none: all."""
    tags: tuple[Pattern, ...] = ()
    """None: all."""
    policy: Literal["ttl", "revalidate", "pin", "never"] = "ttl"
    """``ttl``: kept so long, then asked about by HEAD; ``revalidate``: asked about every time; ``pin``: resolved once,
    kept until it is purged; ``never``: nothing is kept, upstream answers every time."""
    ttl: Duration | None = None
    stale_if_error: StaleAge | None = None
