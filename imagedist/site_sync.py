"""What a site's seeder asks of its proxy for sync: the shapes that both of them speak (docs/sync.md)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from imagedist.oci.digest import Digest


class _Shape(BaseModel):
    """Fields that a newer one adds are ignored."""

    model_config = ConfigDict(frozen=True)

    format: int = 1


class UpstreamList(_Shape):
    """``GET /site/v1/upstreams``. ``default``: where names without a registry are looked for."""

    upstreams: dict[str, list[str]]
    any: bool = False
    default: str | None = None


class RepositoryPage(_Shape):
    """``GET /site/v1/registry/repositories``. ``last``: to be given for the next page; None: this is the last one."""

    repositories: tuple[str, ...]
    last: str | None = None


class TagNow(_Shape):
    """``GET /site/v1/registry/tag``: what the registry says at this moment."""

    digest: Digest


class FetchState(_Shape):
    """``POST /site/v1/blobs/{digest}/fetch``. ``is_here``: committed, size and digest checked."""

    size_bytes: int = Field(alias="size", ge=0)
    present_bytes: int = Field(alias="present", ge=0)
    is_here: bool = Field(alias="here", default=False)


class SyncedTag(_Shape):
    """A tag as a sync rule keeps it at this site, ``PUT /site/v1/synced``.

    Attributes:
        digest: what it means.
        is_answer: whether that is what pullers are told. False: the registry itself tells them; it only stays here.
        skipped: manifests of its index that were not wanted here.
    """

    digest: Digest
    is_answer: bool = True
    skipped: tuple[Digest, ...] = Field(default=(), max_length=10_000)
