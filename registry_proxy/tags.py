"""What a tag means now: a record with a lifetime, revalidated upstream; stale when that fails and policy allows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import NamedTuple

from imagedist.distribution.backend import ManifestAnswer
from imagedist.errors import IntegrityError, NotFoundError, SourceError
from imagedist.metrics import FETCHES, TAGS
from imagedist.oci.digest import Digest
from registry_proxy.failures import RecentFailures
from registry_proxy.flights import Flights
from registry_proxy.manifests import Generation, KeptTag, ManifestStore, TagRecord
from registry_proxy.policy import TagPolicy, tag_policy
from registry_proxy.turns import Turns
from registry_proxy.upstream import UpstreamRepository

log = logging.getLogger(__name__)


class _Question(NamedTuple):
    """What is asked of upstream; one at a time. A purge makes it another question."""

    place: str
    reference: str
    generation: Generation


class Manifests:
    """Pull-through manifests of all upstreams: by digest from the site for ever, by tag as its policy says.

    Args:
        turns: keeps the other processes of this site from asking the same.
        clock: seconds since the epoch; records outlive the process. Injected by tests.
    """

    def __init__(
        self, store: ManifestStore, failures: RecentFailures, turns: Turns, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._failures = failures
        self._turns = turns
        self._clock = clock
        self._flights: Flights[_Question, ManifestAnswer] = Flights()

    async def by_digest(self, place: UpstreamRepository, digest: Digest) -> ManifestAnswer:
        """What came through a private upstream is given to who names another when that one has it as well.

        Raises:
            NotFoundError, SourceError, IntegrityError: the upstream's answer. StorageError.
        """
        kept = await asyncio.to_thread(self._store.get, digest)
        if kept is not None and (kept.private_to is None or place.upstream in kept.private_to):
            return kept.answer
        answer = kept.answer if kept is not None else None

        async def ask() -> ManifestAnswer:
            found = await self._from_upstream(place, str(digest), answer)
            await self._put(place, found)
            return found

        return await self._once(place, _Question(str(place), str(digest), self.generation(place)), ask)

    async def by_tag(self, place: UpstreamRepository, tag: str) -> ManifestAnswer:
        """Raises as ``by_digest``; a failing upstream only when there is nothing stale to serve."""
        policy = tag_policy(place.settings, place.repository, tag)
        kept = await self._kept(place, tag)
        age_seconds = self._clock() - kept.record.checked_at if kept.record else float("inf")
        if policy.is_kept and kept.record is not None:
            is_pinned = policy.fresh_seconds == float("inf")
            if is_pinned and kept.manifest is None:
                return await self.by_digest(place, kept.record.digest)
            if kept.manifest is not None and (is_pinned or 0 <= age_seconds < policy.fresh_seconds):
                TAGS.labels(outcome="pinned" if is_pinned else "fresh").inc()
                return kept.manifest.answer
        question = _Question(str(place), tag, kept.generation)
        try:
            return await self._once(place, question, lambda: self._resolve(place, tag, policy, kept.record))
        except (SourceError, IntegrityError) as error:
            if not policy.is_kept or kept.manifest is None or age_seconds > policy.stale_seconds:
                raise
            TAGS.labels(outcome="stale").inc()
            log.warning("serving %s:%s as of %d s ago: %s", place, tag, age_seconds, error)
            warning = f"{place}:{tag} is stale, last checked {age_seconds:.0f} s ago: {error}"
            return replace(kept.manifest.answer, warning=warning)

    def generation(self, place: UpstreamRepository) -> Generation:
        """Changes when the repository is purged, whichever process does it. One stat."""
        return self._store.generation(place.upstream, place.repository)

    async def purge(self, place: UpstreamRepository, tag: str | None) -> int:
        """Forgets what the tag means, or every tag of the repository; all processes of the site hold to it at once.

        Returns:
            How many tags were known.

        Raises:
            StorageError: the records cannot be removed.
        """
        count = await asyncio.to_thread(self._store.purge, place.upstream, place.repository, tag)
        log.info("purged %s%s: %d tags were known", place, f":{tag}" if tag is not None else "", count)
        return count

    async def close(self) -> None:
        await self._flights.close()
        self._turns.close()

    async def _kept(self, place: UpstreamRepository, tag: str) -> KeptTag:
        return await asyncio.to_thread(self._store.get_tag, place.upstream, place.repository, tag)

    async def _once(
        self, place: UpstreamRepository, question: _Question, ask: Callable[[], Awaitable[ManifestAnswer]]
    ) -> ManifestAnswer:
        async def asked() -> ManifestAnswer:
            try:
                answer = await ask()
            except (NotFoundError, SourceError, IntegrityError) as error:
                FETCHES.labels(kind="manifest", outcome=type(error).__name__).inc()
                self._failures.remember(question, error, place.settings.negative_ttl.total_seconds())
                raise
            FETCHES.labels(kind="manifest", outcome="done").inc()
            return answer

        self._failures.check(question)
        return await self._flights.run(question, asked)

    async def _resolve(
        self, place: UpstreamRepository, tag: str, policy: TagPolicy, seen: TagRecord | None
    ) -> ManifestAnswer:
        """Asks upstream what the tag means, unless another process has done so since its record was ``seen``."""
        if not policy.is_kept:
            answer = await self._from_upstream(place, tag, None)
            await self._put(place, answer)
            TAGS.labels(outcome="fetched").inc()
            return answer
        async with self._turns.take(f"{place}:{tag}"):
            kept = await self._kept(place, tag)
            before = kept.manifest.answer if kept.manifest is not None else None
            if before is not None and kept.record != seen:
                return before
            try:
                answer = await self._from_upstream(place, tag, before)
            except NotFoundError:
                await asyncio.to_thread(self._store.drop_tag, place.upstream, place.repository, tag)
                raise
            if answer is not before:
                await self._put(place, answer)
            record = TagRecord(digest=answer.digest, media_type=answer.media_type, checked_at=self._clock())
            await asyncio.to_thread(self._store.put_tag, place.upstream, place.repository, tag, record, kept.generation)
        if kept.record is None or kept.record.digest == answer.digest:
            TAGS.labels(outcome="revalidated" if answer is before else "fetched").inc()
        else:
            TAGS.labels(outcome="moved").inc()
            log.info("%s:%s moved from %s to %s", place, tag, kept.record.digest, answer.digest)
        return answer

    async def _put(self, place: UpstreamRepository, answer: ManifestAnswer) -> None:
        await asyncio.to_thread(self._store.put, answer, None if place.may_swarm else place.upstream)

    @staticmethod
    async def _from_upstream(place: UpstreamRepository, reference: str, kept: ManifestAnswer | None) -> ManifestAnswer:
        if kept is not None:  # HEAD costs nothing against Docker Hub's pull limit
            head = await place.client.head_manifest(place.repository, reference)
            if head.digest == kept.digest:
                return kept
        fetched = await place.client.manifest(place.repository, reference)
        return ManifestAnswer(fetched.digest, fetched.media_type, fetched.body)
