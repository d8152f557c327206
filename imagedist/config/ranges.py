"""Ranges of versions as npm writes them (``>=1.2``, ``^1 || ~2.3``), over tags (node-semver's owner here).

A tag is a version if it is one by SemVer 2.0, with or without a ``v`` before it: ``1.2.3``, ``v1.2.3-rc.1``. ``1.2``
and ``latest`` are none. As with npm, a range has pre-releases only of a version that it names with one:
``1.3.0-alpine`` is not in ``>=1.2``, but ``1.3.0-rc.2`` is in ``>=1.3.0-rc.1``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cmp_to_key
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, PlainSerializer


class VersionRange:
    """
    Raises:
        ValueError: not a range, or one that no version can be in.
    """

    def __init__(self, text: str) -> None:
        import nodesemver  # here: 15 ms that most commands need not wait for

        self.text = text
        try:
            self._range = nodesemver.make_range(text, False)
        except ValueError as error:
            raise ValueError(f'expected a range such as ">=1.2", "^1" or ">=1.2 <2 || 3.x", got {text!r}') from error
        if not any(self._is_possible(alternative) for alternative in self._range.set):
            raise ValueError(f"no version is in {text!r}: its lower bound is above its upper one")

    def __repr__(self) -> str:
        return f"<VersionRange {self.text}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionRange) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def has(self, tag: str) -> bool:
        """Whether the tag is a version, and in the range."""
        version = _version(tag)
        return version is not None and bool(self._range.test(version))

    @staticmethod
    def _is_possible(comparators: list[Any]) -> bool:
        """Whether one of the bounds, or what comes next after one, is within all of them."""
        import nodesemver

        bounds = [each.semver.version for each in comparators if hasattr(each.semver, "version")]
        following = [nodesemver.inc(bound, "patch", False) for bound in bounds]
        candidates = [nodesemver.make_semver(each, False) for each in ("0.0.0", *bounds, *following)]
        return any(all(each.test(candidate) for each in comparators) for candidate in candidates)


def newest_versions(tags: Iterable[str], count: int) -> list[str]:
    """The highest versions among the tags, the highest first; those that are no versions are left out."""
    import nodesemver

    known = [(version, tag) for tag in tags if (version := _version(tag)) is not None]
    by_precedence = cmp_to_key(lambda one, other: nodesemver.compare(one, other, False))
    known.sort(key=lambda each: (by_precedence(each[0].version), each[1]), reverse=True)
    return [tag for _, tag in known[:count]]


def _version(tag: str) -> Any | None:
    import nodesemver

    try:
        return nodesemver.make_semver(tag, False)
    except ValueError:
        return None


def _parse(value: Any) -> VersionRange:
    return value if isinstance(value, VersionRange) else VersionRange(str(value))


Range = Annotated[InstanceOf[VersionRange], BeforeValidator(_parse), PlainSerializer(lambda value: value.text)]
