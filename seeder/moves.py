"""How a tag moved, so that sites agree on what it means without asking each other's clocks. Pure.

Each site counts the moves that it makes itself; a tag carries, for every site, how many of its moves are in what the
tag means now (a version vector). Of two meanings one contains the other, and is newer, or both sites moved the tag
without knowing of each other: a conflict. All sites settle it the same way: a tag that means something wins over one
that was deleted, else the move of the site whose name sorts first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from imagedist.oci.digest import Digest

Versions = Mapping[str, int]
Relation = Literal["same", "newer", "older", "apart"]


class Terms(BaseModel):
    """What a rule says of a tag for one site."""

    model_config = ConfigDict(frozen=True)

    platforms: tuple[str, ...] = Field(default=(), max_length=64)
    referrers: bool = True
    delete: bool = False


@dataclass(frozen=True, slots=True)
class Meaning:
    """
    Attributes:
        digest: None: the tag was deleted.
        origin: the site that moved it there.
        terms: by the names of the sites that are to have it.
    """

    digest: Digest | None
    origin: str = ""
    versions: Versions = field(default_factory=dict)
    terms: Mapping[str, Terms] = field(default_factory=dict)


class Settled(NamedTuple):
    """``meaning``: None: what is held stays, nothing is to do. ``lost``: of a conflict, what was given up."""

    meaning: Meaning | None
    lost: Meaning | None = None


def relation(one: Versions, other: Versions) -> Relation:
    """What ``one`` is, seen from ``other``."""
    sites = one.keys() | other.keys()
    is_ahead = any(one.get(site, 0) > other.get(site, 0) for site in sites)
    is_behind = any(one.get(site, 0) < other.get(site, 0) for site in sites)
    if is_ahead:
        return "apart" if is_behind else "newer"
    return "older" if is_behind else "same"


def moved(versions: Versions, site: str, born_at: int) -> Versions:
    """After one more move of ``site``.

    Args:
        born_at: when the site's journal was made, in milliseconds since the epoch: one that had to be made anew
            counts on from there, and so never below what its predecessor told.
    """
    return {**versions, site: max(versions.get(site, 0) + 1, born_at)}


def settle(held: Meaning | None, told: Meaning) -> Settled:
    """What a tag means once both are known."""
    if held is None:
        return Settled(told)
    how = relation(told.versions, held.versions)
    if how != "apart":
        return Settled(told if how == "newer" else None)
    versions = {site: max(held.versions.get(site, 0), told.versions.get(site, 0)) for site in _sites(held, told)}
    if told.digest == held.digest:
        first = min(held, told, key=lambda each: each.origin)
        return Settled(replace(first, versions=versions, terms={**held.terms, **told.terms}))
    won = min(held, told, key=lambda each: (each.digest is None, each.origin))
    lost = told if won is held else held
    return Settled(replace(won, versions=versions), lost)


def _sites(one: Meaning, other: Meaning) -> set[str]:
    return one.versions.keys() | other.versions.keys()
