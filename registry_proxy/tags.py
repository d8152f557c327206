"""What a tag means now: a record with a lifetime, revalidated upstream; stale when that fails and policy allows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from imagedist.distribution.backend import ManifestAnswer
from imagedist.errors import (
    FullError,
    IntegrityError,
    NotFoundError,
    SourceError,
    UnacceptableError,
    UnauthorizedError,
)
from imagedist.metrics import FETCHES, TAGS
from imagedist.oci.client import ManifestHead
from imagedist.oci.digest import Digest
from imagedist.site_sync import SyncedTag
from registry_proxy.access import Access
from registry_proxy.failures import RecentFailures
from registry_proxy.fetching import Nearby, fetch_manifest_nearby, manifest_kept, nothing_nearby
from registry_proxy.flights import Flights
from registry_proxy.manifests import Generation, KeptManifest, KeptTag, ManifestStore, TagRecord
from registry_proxy.policy import TagPolicy, tag_policy
from registry_proxy.turns import Turns
from registry_proxy.upstream import UpstreamRepository
from registry_proxy.upstream_client import Source

_LOG = logging.getLogger(__name__)


class _Question(NamedTuple):
    """What is asked of upstream; one at a time. A purge makes it another question.

    Attributes:
        place: ``UpstreamRepository.key``.
    """

    place: str
    reference: str
    generation: Generation


class Manifests:
    """Pull-through manifests of all upstreams: by digest from the site for ever, by tag as its policy says.

    Args:
        access: who may have what is here already.
        turns: keeps the other processes of this site from asking the same.
        nearby: asked for manifests by digest before the upstream, and for tags that sync keeps there when upstream
            fails and nothing is kept here.
        backups: those that may be asked for this asker after upstream has failed.
        synced: the tag as a sync rule keeps it here, by upstream, repository and tag; blocking.
        clock: seconds since the epoch; records outlive the process. Injected by tests.
    """

    def __init__(
        self,
        store: ManifestStore,
        access: Access,
        failures: RecentFailures,
        turns: Turns,
        *,
        nearby: Nearby = nothing_nearby,
        backups: Callable[[UpstreamRepository], Sequence[Source]] = lambda place: (),
        synced: Callable[[str, str, str], SyncedTag | None] = lambda upstream, repository, tag: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._access = access
        self._failures = failures
        self._turns = turns
        self._nearby = nearby
        self._backups = backups
        self._synced = synced
        self._clock = clock
        self._flights: Flights[_Question, ManifestAnswer] = Flights()

    async def by_digest(self, place: UpstreamRepository, digest: Digest) -> ManifestAnswer:
        """What came through a private upstream is given to who names another when that one has it as well.

        Raises:
            NotFoundError, SourceError, IntegrityError: the upstream's answer. StorageError.
        """
        kept = await asyncio.to_thread(self._store.get, digest)
        if kept is not None and self._is_for(place, kept):
            return kept.answer
        return await self._ask_by_digest(place, digest, kept)

    async def held(self, digest: Digest) -> ManifestAnswer | None:
        """What is here and needs no grant; asks nobody."""
        kept = await asyncio.to_thread(self._store.get, digest)
        return kept.answer if kept is not None and kept.private_to is None else None

    async def is_synced(self, place: UpstreamRepository, tag: str) -> bool:
        """Whether a sync rule says what the tag means, whatever upstream does."""
        synced = await asyncio.to_thread(self._synced, place.upstream, place.repository, tag)
        return synced is not None and synced.is_answer

    async def by_tag(self, place: UpstreamRepository, tag: str) -> ManifestAnswer:
        """Raises as ``by_digest``; a failing upstream only when there is nothing stale to serve."""
        synced = await asyncio.to_thread(self._synced, place.upstream, place.repository, tag)
        if synced is not None and synced.is_answer:
            TAGS.labels(outcome="synced").inc()
            return await self.by_digest(place, synced.digest)
        policy = tag_policy(place.settings, place.repository, tag)
        kept = await self._kept(place, tag)
        age_seconds = self._clock() - kept.record.checked_at if kept.record else float("inf")
        if policy.is_kept and kept.record is not None:
            is_pinned = policy.fresh_seconds == float("inf")
            is_fresh = is_pinned or 0 <= age_seconds < policy.fresh_seconds
            if is_fresh and kept.manifest is not None and self._access.may_read(place):
                TAGS.labels(outcome="pinned" if is_pinned else "fresh").inc()
                return kept.manifest.answer
            if is_pinned:
                return await self._ask_by_digest(place, kept.record.digest, kept.manifest)
        question = _Question(place.key, tag, kept.generation)
        try:
            return await self._once(place, question, lambda: self._resolve(place, tag, policy, kept.record))
        except (SourceError, IntegrityError) as error:
            is_denied = isinstance(error, UnauthorizedError) and place.needs_grant
            may_read = not is_denied and self._access.may_read(place, has_failed=True)
            if not policy.is_kept or kept.manifest is None or age_seconds > policy.stale_seconds or not may_read:
                if isinstance(error, UnauthorizedError) or (found := await self._from_kept(place, tag)) is None:
                    raise
                TAGS.labels(outcome="backup").inc()
                return replace(found, warning=f"{place}:{tag} is as sync or a backup has kept it: {error}")
            TAGS.labels(outcome="stale").inc()
            _LOG.warning("serving %s:%s as of %d s ago: %s", place, tag, age_seconds, error)
            warning = f"{place}:{tag} is stale, last checked {age_seconds:.0f} s ago: {error}"
            return replace(kept.manifest.answer, warning=warning)

    async def note(self, place: UpstreamRepository, tag: str, digest: Digest) -> None:
        """What upstream says of a tag at this moment, as somebody else has asked it. Raises StorageError."""
        kept = await self._kept(place, tag)
        manifest = await asyncio.to_thread(self._store.get, digest)
        if manifest is not None:
            record = TagRecord(digest=digest, media_type=manifest.answer.media_type, checked_at=self._clock())
            where = (place.upstream, place.repository, tag)
            await self._keep(lambda: self._store.put_tag(*where, record, kept.generation))

    async def keep(self, place: UpstreamRepository, manifest: ManifestAnswer) -> None:
        """A document that was made here of what upstream said. Raises StorageError."""
        owner = place.owner if place.is_private else None
        await asyncio.to_thread(self._store.put, manifest, owner)

    async def purge(self, place: UpstreamRepository, tag: str | None) -> int:
        """Forgets what the tag means, or every tag of the repository; all processes of the site hold to it at once.

        Returns:
            How many tags were known.

        Raises:
            StorageError: the records cannot be removed.
        """
        count = await asyncio.to_thread(self._store.purge, place.upstream, place.repository, tag)
        _LOG.info("purged %s%s: %d tags were known", place, f":{tag}" if tag is not None else "", count)
        return count

    async def close(self) -> None:
        await self._flights.close()
        self._turns.close()

    def _is_for(self, place: UpstreamRepository, kept: KeptManifest, *, has_failed: bool = False) -> bool:
        """Whether the asker may have what is here without asking upstream, or as it cannot be asked."""
        if kept.private_to is None:
            return True
        is_known = place.has_account and place.owner in kept.private_to
        return is_known and self._access.may_read(place, has_failed=has_failed)

    async def _ask_by_digest(
        self, place: UpstreamRepository, digest: Digest, kept: KeptManifest | None
    ) -> ManifestAnswer:
        question = _Question(place.key, str(digest), self._access.generation(place))
        answer = kept.answer if kept is not None else None

        async def ask() -> ManifestAnswer:
            if answer is None and (held := await self._from_nearby(place, digest)) is not None:
                return held
            # who is not trusted has to send it: that it says to have it opens nothing
            try:
                return await self._from_upstream(place, str(digest), answer if place.is_trusted else None)
            except UnauthorizedError:
                raise
            except (NotFoundError, SourceError):
                if answer is not None or (found := await self._from_backup(place, str(digest))) is None:
                    raise
                return found

        try:
            return await self._once(place, question, ask)
        except SourceError as error:
            is_denied = isinstance(error, UnauthorizedError)
            if kept is None or is_denied or not self._is_for(place, kept, has_failed=True):
                raise
            _LOG.warning("giving %s@%s unasked: %s", place, digest, error)
            return kept.answer

    async def _kept(self, place: UpstreamRepository, tag: str) -> KeptTag:
        return await asyncio.to_thread(self._store.get_tag, place.upstream, place.repository, tag)

    async def _once(
        self, place: UpstreamRepository, question: _Question, ask: Callable[[], Awaitable[ManifestAnswer]]
    ) -> ManifestAnswer:
        async def asked() -> ManifestAnswer:
            try:
                answer = await ask()
            except (NotFoundError, SourceError, IntegrityError, UnacceptableError) as error:
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
            TAGS.labels(outcome="fetched").inc()
            return answer
        async with self._turns.take(f"{place}:{tag}"):
            kept = await self._kept(place, tag)
            before = kept.manifest.answer if kept.manifest is not None else None
            if before is not None and kept.record != seen and self._access.may_read(place):
                return before
            try:
                answer = await self._from_upstream(place, tag, before)
            except NotFoundError:
                if not place.needs_grant:  # else it may be there for others
                    await asyncio.to_thread(self._store.drop_tag, place.upstream, place.repository, tag)
                raise
            record = TagRecord(digest=answer.digest, media_type=answer.media_type, checked_at=self._clock())
            where = (place.upstream, place.repository, tag)
            await self._keep(lambda: self._store.put_tag(*where, record, kept.generation))
        if kept.record is None or kept.record.digest == answer.digest:
            TAGS.labels(outcome="revalidated" if answer is before else "fetched").inc()
        else:
            TAGS.labels(outcome="moved").inc()
            _LOG.info("%s:%s moved from %s to %s", place, tag, kept.record.digest, answer.digest)
        return answer

    @staticmethod
    async def _keep(write: Callable[[], None]) -> None:
        """On a full disk the answer is given all the same."""
        try:
            await asyncio.to_thread(write)
        except FullError as error:
            _LOG.warning("answering without keeping it: %s", error)

    async def _from_nearby(self, place: UpstreamRepository, digest: Digest) -> ManifestAnswer | None:
        """That a sibling site holds it is no grant of upstream's: not for those whose users need one."""
        if place.needs_grant:
            return None
        held = await fetch_manifest_nearby(place, digest, self._nearby)
        if held is None:
            return None
        answer = ManifestAnswer(held.digest, held.media_type, held.body, is_kept=False)
        await self._keep(lambda: self._store.put(answer, None))
        return answer

    async def _from_kept(self, place: UpstreamRepository, tag: str) -> ManifestAnswer | None:
        """What a tag means where sync has brought it, at siblings and backups; upstream cannot be asked."""
        if place.is_trusted and place.may_swarm and not place.needs_grant:
            found = await manifest_kept(place, tag, self._nearby())
            if found is not None:
                answer = ManifestAnswer(found.digest, found.media_type, found.body, is_kept=False)
                await self._keep(lambda: self._store.put(answer, None))
                return answer
        return await self._from_backup(place, tag)

    async def _from_backup(self, place: UpstreamRepository, reference: str) -> ManifestAnswer | None:
        found = await manifest_kept(place, reference, self._backups(place))
        if found is None:
            return None
        answer = ManifestAnswer(found.digest, found.media_type, found.body, is_kept=False)
        await self._keep(lambda: self._store.put(answer, place.owner if place.is_private else None))
        return answer

    async def _from_upstream(
        self, place: UpstreamRepository, reference: str, kept: ManifestAnswer | None
    ) -> ManifestAnswer:
        """Asks as the asker, keeps the answer, and notes that he may read there."""

        async def head(place: UpstreamRepository) -> ManifestHead:
            return await place.client.head_manifest(place.repository, reference)

        with self._access.asking(place):
            place = await self._access.settled(place, head)
            # HEAD costs nothing against Docker Hub's pull limit
            if kept is not None and (await head(place)).digest == kept.digest:
                answer = kept
            else:
                fetched = await place.client.manifest(place.repository, reference)
                answer = ManifestAnswer(fetched.digest, fetched.media_type, fetched.body, is_kept=False)
        self._access.note(place, may_read=True)
        await self._keep(lambda: self._store.put(answer, place.owner if place.is_private else None))
        return answer
