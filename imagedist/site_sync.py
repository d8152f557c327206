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


class ReferrersNow(_Shape):
    """``GET /site/v1/registry/referrers/{digest}``: an index of what refers to it. None: nothing does."""

    digest: Digest | None


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


class KeptTag(SyncedTag):
    """With its name."""

    upstream: str
    repository: str
    tag: str


class KeptTags(_Shape):
    """``GET /site/v1/synced``: all of them; read with the site token, as they name private repositories."""

    tags: tuple[KeptTag, ...]


class RuleStatus(_Shape):
    """One ``[[sync]]``. Times are seconds since the epoch. ``tags``: that are covered, as
    last seen."""

    number: int
    repositories: tuple[str, ...]
    upstream: str
    to: tuple[str, ...]
    schedule: str | None = None
    next_at: float | None = None
    scanned_at: float | None = None
    tags: int | None = None
    error: str = ""


class FollowStatus(_Shape):
    """Another site's journal. ``sequence``: up to which it was taken in; ``told_at``: when it last answered."""

    site: str
    sequence: int
    told_at: float | None = None
    error: str = ""


class TaskStatus(_Shape):
    """A tag in the queue. ``digest``: None: it is to be deleted. ``source``: the site that told it; empty: ours.
    ``to``: the backup that it goes to; empty: this site.

    Bytes are of blobs that were not there.
    """

    name: str
    tag: str
    digest: Digest | None
    source: str
    to: str = ""
    state: str
    attempts: int = 0
    error: str = ""
    blobs: int = 0
    blobs_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0


class ConflictStatus(_Shape):
    """Two sites moved a tag without knowing of each other: whose move was kept, and what was given up."""

    at: float
    name: str
    tag: str
    kept: str
    kept_of: str
    lost: str
    lost_of: str


class DestinationStatus(_Shape):
    """How far a site or a backup is that rules here name: ``is_behind`` while our journal has news for it, or there is
    work to do for it."""

    site: str
    is_backup: bool = False
    sequence: int = 0
    waiting: int = 0
    failed: int = 0
    is_behind: bool = True
    error: str = ""


class SyncStatus(_Shape):
    """``GET /site/v1/syncs``. ``queue``: its beginning. ``bytes_per_second``: the cap at this hour; None: none."""

    site: str
    journal: str
    sequence: int
    is_scanning: bool
    waiting: int
    failed: int
    bytes_per_second: int | None = None
    rules: tuple[RuleStatus, ...] = ()
    follows: tuple[FollowStatus, ...] = ()
    queue: tuple[TaskStatus, ...] = ()
    conflicts: tuple[ConflictStatus, ...] = ()
    destinations: tuple[DestinationStatus, ...] = ()


class PlanLine(_Shape):
    """What would happen to a tag at a site. ``action``: set, move or delete. Blobs and bytes: those that it lacks and
    that no line above it brings already."""

    site: str
    name: str
    tag: str
    action: str
    digest: Digest | None = None
    blobs: int = 0
    bytes: int = 0


class SyncPlan(_Shape):
    """``GET /site/v1/syncs/plan``. ``errors``: what could not be found out."""

    lines: tuple[PlanLine, ...] = ()
    errors: tuple[str, ...] = ()


class BackupSource(_Shape):
    """A registry that the site's proxies read when nobody else has something. ``ca``: PEM."""

    name: str = Field(max_length=255)
    registry: str = Field(pattern=r"^https?://", max_length=1000)
    prefix: str = ""
    cost: int = Field(ge=0)
    username: str | None = None
    password: str | None = None
    ca: str | None = None


class BackupList(_Shape):
    """``GET /site/v1/backups``; read with the site token, as there are logins in it."""

    backups: tuple[BackupSource, ...] = Field(max_length=64)


class RestoreLine(_Shape):
    """A tag that a backup has. Blobs (and manifests) and bytes: what the site lacks, and no line above it brings.

    Attributes:
        action: set or move; here: it is, with all of it; newer: it means something else here, with all of that;
            deleted: it was, here.
    """

    name: str
    tag: str
    digest: Digest
    action: str
    blobs: int = 0
    bytes: int = 0


class RestorePlan(_Shape):
    """``POST /site/v1/restores``. ``errors``: what could not be found out, and so is not restored."""

    source: str
    lines: tuple[RestoreLine, ...] = ()
    errors: tuple[str, ...] = ()


class RestoreOrder(_Shape):
    """``source``: a backup's name, or a site's. ``repositories``: names, globs, or expressions between slashes; none:
    all. ``is_dry``: nothing is restored, only found out."""

    source: str
    repositories: tuple[str, ...] = Field(default=(), max_length=1000)
    is_dry: bool = False


class RestoreStatus(_Shape):
    """``POST /site/v1/restores/status``. ``stuck``: of those that wait, how many have failed several times; ``errors``:
    why, of the first ones. Bytes are of what is under way."""

    source: str
    waiting: int
    stuck: int
    errors: tuple[str, ...] = ()
    bytes_total: int = 0
    bytes_done: int = 0
