"""What a tag means now: a record with a lifetime, revalidated upstream; stale when that fails and policy allows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from imagedist.distribution.backend import ManifestAnswer
from imagedist.errors import IntegrityError, NotFoundError, SourceError
from imagedist.metrics import FETCHES
from imagedist.oci.digest import Digest
from registry_proxy.failures import RecentFailures
from registry_proxy.flights import Flights
from registry_proxy.manifests import ManifestStore, TagRecord
from registry_proxy.upstream import UpstreamRepository

log = logging.getLogger(__name__)


class Manifests:
    """Pull-through manifests of all upstreams: by digest from the site for ever, by tag for its lifetime.

    Args:
        clock: seconds since the epoch; records outlive the process. Injected by tests.
    """

    def __init__(
        self, store: ManifestStore, failures: RecentFailures, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._failures = failures
        self._clock = clock
        self._flights: Flights[tuple[str, str], ManifestAnswer] = Flights()

    async def by_digest(self, place: UpstreamRepository, digest: Digest) -> ManifestAnswer:
        """What came through a private upstream is given to who names another when that one has it as well.

        Raises:
            NotFoundError, SourceError, IntegrityError: the upstream's answer. StorageError.
        """
        kept = await asyncio.to_thread(self._store.get, digest)
        if kept is None:
            return await self._once(place, str(digest))
        if kept.private_to is None or place.upstream in kept.private_to:
            return kept.answer
        return await self._once(place, str(digest), kept.answer)

    async def by_tag(self, place: UpstreamRepository, tag: str) -> ManifestAnswer:
        """Raises as ``by_digest``; a failing upstream only when there is nothing stale to serve."""
        record = await asyncio.to_thread(self._store.get_tag, place.upstream, place.repository, tag)
        present = await asyncio.to_thread(self._store.get, record.digest) if record else None
        if record is None or present is None:
            return await self._once(place, tag)
        kept = present.answer
        age_seconds = self._clock() - record.checked_at
        if 0 <= age_seconds < place.settings.tag_ttl.total_seconds():
            return kept
        try:
            return await self._once(place, tag, kept)
        except (SourceError, IntegrityError) as error:
            if not place.settings.stale_if_error:
                raise
            log.warning("serving %s:%s as of %d s ago: %s", place, tag, age_seconds, error)
            warning = f"{place}:{tag} is stale, last checked {age_seconds:.0f} s ago: {error}"
            return ManifestAnswer(kept.digest, kept.media_type, kept.body, warning)

    async def close(self) -> None:
        await self._flights.close()

    async def _once(
        self, place: UpstreamRepository, reference: str, kept: ManifestAnswer | None = None
    ) -> ManifestAnswer:
        key = (str(place), reference)
        self._failures.check(key)
        return await self._flights.run(key, lambda: self._ask(place, reference, kept))

    async def _ask(self, place: UpstreamRepository, reference: str, kept: ManifestAnswer | None) -> ManifestAnswer:
        try:
            answer = await self._answer(place, reference, kept)
        except (NotFoundError, SourceError, IntegrityError) as error:
            FETCHES.labels(kind="manifest", outcome=type(error).__name__).inc()
            self._failures.remember((str(place), reference), error)
            raise
        FETCHES.labels(kind="manifest", outcome="done").inc()
        if answer is not kept or ":" in reference:
            await asyncio.to_thread(self._store.put, answer, None if place.may_swarm else place.upstream)
        if ":" not in reference:
            record = TagRecord(digest=answer.digest, media_type=answer.media_type, checked_at=self._clock())
            await asyncio.to_thread(self._store.put_tag, place.upstream, place.repository, reference, record)
        return answer

    @staticmethod
    async def _answer(place: UpstreamRepository, reference: str, kept: ManifestAnswer | None) -> ManifestAnswer:
        if kept is not None:  # HEAD costs nothing against Docker Hub's pull limit
            head = await place.client.head_manifest(place.repository, reference)
            if head.digest == kept.digest:
                return kept
        fetched = await place.client.manifest(place.repository, reference)
        return ManifestAnswer(fetched.digest, fetched.media_type, fetched.body)
