"""How an image comes into the site: its manifests, then every blob that is missing, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from imagedist.errors import SourceError, UnacceptableError
from imagedist.metrics import SYNC_BLOBS, SYNC_BYTES
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from imagedist.site_sync import FetchState
from seeder.sync.gather import all_of
from seeder.sync.parts import find_parts
from seeder.sync.proxy import SiteProxy

_POLL_SECONDS = 5.0
"""How long the proxy holds an answer back: then progress is seen, and the cap told anew."""


@dataclass(slots=True)
class Progress:
    """Of one image. Bytes are of blobs that were not here when it began."""

    blobs: int = 0
    blobs_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    arriving: dict[Digest, int] = field(default_factory=dict)

    @property
    def bytes_now(self) -> int:
        return self.bytes_done + sum(self.arriving.values())


class Brings:
    """Fetches of this site, with one bound on blobs under way for all of them.

    Args:
        cap: bytes per second at this moment; None: no cap.
    """

    def __init__(self, proxy: SiteProxy, blobs_at_once: int, cap: Callable[[], int | None]) -> None:
        self._proxy = proxy
        self._slots = asyncio.Semaphore(blobs_at_once)
        self._cap = cap

    async def bring(
        self, upstream: str, repository: str, digest: Digest, platforms: Collection[Platform], progress: Progress
    ) -> tuple[Digest, ...]:
        """Returns when all of the image is in the site.

        Returns:
            The manifests that were left out.

        Raises:
            NotFoundError, SourceError, IntegrityError, UnacceptableError: something did not come.
        """
        parts = await find_parts(
            lambda each: self._proxy.manifest(upstream, repository, each), digest, platforms, f"{repository}@{digest}"
        )
        progress.blobs = len(parts.blobs)
        await all_of([self._blob(upstream, repository, blob, progress) for blob in parts.blobs])
        return parts.skipped

    async def _blob(self, upstream: str, repository: str, blob: Descriptor, progress: Progress) -> None:
        async with self._slots:
            was_moved = False
            while True:
                wait_seconds = _POLL_SECONDS if was_moved else 0.0
                state = await self._fetch(upstream, repository, blob.digest, wait_seconds)
                if state.size_bytes != blob.size_bytes:
                    raise UnacceptableError(
                        f"blob {blob.digest} has {state.size_bytes} bytes, its manifest says {blob.size_bytes}"
                    )
                if state.is_here:
                    break
                if not was_moved:
                    was_moved = True
                    progress.bytes_total += blob.size_bytes
                progress.arriving[blob.digest] = state.present_bytes
            progress.arriving.pop(blob.digest, None)
            progress.blobs_done += 1
            if was_moved:
                progress.bytes_done += blob.size_bytes
                SYNC_BYTES.inc(blob.size_bytes)
            SYNC_BLOBS.labels(outcome="moved" if was_moved else "present").inc()

    async def _fetch(self, upstream: str, repository: str, digest: Digest, wait_seconds: float) -> FetchState:
        try:
            return await self._proxy.fetch(upstream, repository, digest, self._cap(), wait_seconds)
        except SourceError as error:
            if str(digest) in str(error):
                raise
            raise SourceError(f"blob {digest} did not come: {error}") from error
