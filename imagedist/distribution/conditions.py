"""Conditional requests: ``If-Match``, ``If-None-Match`` and ``If-Range`` against a digest (RFC 9110 §13). Pure.

The entity tag of everything that is served is its digest: ``"sha256:…"``, a strong one. There are no modification
times, so ``If-Modified-Since`` and its kin are ignored, as §13.1.3 wants it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from imagedist.oci.digest import Digest

_ENTITY_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|\Z)')


def entity_tag(digest: Digest) -> str:
    return f'"{digest}"'


def is_precondition_failed(if_match: Sequence[str], digest: Digest) -> bool:
    """Whether ``If-Match`` asks for another version than the one there is: 412 (§13.1.1, strong comparison)."""
    return bool(if_match) and not _names(if_match, digest, weak=False)


def is_unchanged(if_none_match: Sequence[str], digest: Digest) -> bool:
    """Whether the client has it already: 304 (§13.1.2, weak comparison).

    Args:
        if_none_match: the header's lines. A digest without quotes counts as well, as with docker-registry.
    """
    return _names(if_none_match, digest, weak=True)


def is_range_meant(if_range: str | None, digest: Digest) -> bool:
    """Whether ``Range`` still means this version (§13.1.5): a weak tag or a date never does, then all is sent."""
    return if_range is None or if_range.strip() == entity_tag(digest)


def _names(lines: Sequence[str], digest: Digest, *, weak: bool) -> bool:
    wanted = str(digest)
    for line in lines:
        if line.strip() in ("*", wanted):
            return True
        at = 0
        while match := _ENTITY_TAG.match(line, at):
            if match[2] == wanted and (weak or match[1] is None):
                return True
            at = match.end()
    return False
