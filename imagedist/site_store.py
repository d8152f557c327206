"""What operators ask of a site's store: the shapes that proxies answer, and the questions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from imagedist.site import Site


class _Shape(BaseModel):
    """Fields that a newer site adds are ignored."""

    model_config = ConfigDict(frozen=True)

    format: int = 1


class FolderStatus(BaseModel):
    files: int
    bytes: int


class ScrubStatus(_Shape):
    """``GET /site/v1/scrub``. Times are seconds since the epoch. Counts are of the round under way, or the last one."""

    is_running: bool
    is_wanted: bool = False
    checked_blobs: int
    checked_bytes: int
    rotten_blobs: int
    started_at: float | None = None
    finished_at: float | None = None
    next_at: float | None = None


class StoreStatus(_Shape):
    """``GET /site/v1/store``.

    Attributes:
        used_bytes: of all folders, with the room promised to blobs on their way (``arriving_bytes``).
        pinned_bytes, pinned_blobs, missing_blobs: what pins hold here, and what they name that is not here.
        evicted_files, evicted_bytes: since the store was made.
    """

    root: str
    quota_bytes: int | None
    used_bytes: int
    arriving_bytes: int
    free_bytes: int
    headroom_bytes: int
    folders: dict[str, FolderStatus]
    pins: int
    pinned_blobs: int
    pinned_bytes: int
    missing_blobs: int
    evicted_files: int
    evicted_bytes: int
    scrub: ScrubStatus


class PinStatus(_Shape):
    """One pin. ``blobs``, ``bytes``: of it that are here; ``missing``: how many known ones are not."""

    name: str
    digest: str
    owner: str
    reason: str = ""
    created_at: float
    blobs: int
    bytes: int
    missing: int


class PinList(_Shape):
    """``GET /site/v1/pins``."""

    pins: tuple[PinStatus, ...]


class SiteStore:
    """A site's store, through the first of its proxies that answers."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def status(self) -> StoreStatus:
        """Raises SourceError: no proxy answers."""
        return await self._site.call("GET", "store", {}, StoreStatus)

    async def pins(self) -> PinList:
        """Raises SourceError."""
        return await self._site.call("GET", "pins", {}, PinList)

    async def pin(self, query: dict[str, str]) -> PinStatus:
        """
        Args:
            query: ``ns``, ``repo``, ``reference``, ``owner``, ``reason`` as the route takes them.

        Raises:
            NotFoundError: no such image. SourceError: no proxy answers, or it refuses.
        """
        return await self._site.call("PUT", "pins", query, PinStatus)

    async def unpin(self, query: dict[str, str]) -> PinStatus:
        """Raises NotFoundError: there is no such pin. SourceError."""
        return await self._site.call("DELETE", "pins", query, PinStatus)

    async def scrub(self, *, now: bool) -> ScrubStatus:
        """How far scrubbing has come; ``now`` asks for a round. Raises SourceError."""
        return await self._site.call("POST" if now else "GET", "scrub", {}, ScrubStatus)
