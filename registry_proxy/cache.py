"""The pull-through backend of the /v2 surface: what the site has, else the upstream, once however many ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.errors import (
    ImagedistError,
    InputError,
    IntegrityError,
    NotFoundError,
    SourceError,
    UnauthorizedError,
)
from imagedist.metrics import FETCHES
from imagedist.oci.digest import Digest
from imagedist.site_sync import SyncedTag
from imagedist.store.arrival import Arrival
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.privacy import PrivateBlobs
from imagedist.store.reading import OpenBlob
from imagedist.store.writer import BlobWriter
from registry_proxy.access import Access
from registry_proxy.failures import RecentFailures
from registry_proxy.fetching import (
    LyingSourceError,
    Nearby,
    fetch_blob,
    fetch_manifest_nearby,
    first_bytes,
    manifest_kept,
    nothing_nearby,
)
from registry_proxy.flights import Flights
from registry_proxy.manifests import Generation, ManifestStore
from registry_proxy.pace import Pace
from registry_proxy.referrers import Referrers
from registry_proxy.synced import SyncedTags
from registry_proxy.tag_lists import TagLists
from registry_proxy.tags import Manifests
from registry_proxy.turns import Turns
from registry_proxy.upstream import UpstreamRepository, Upstreams
from registry_proxy.upstream_client import Source

_LOG = logging.getLogger(__name__)

_MAX_PLACES = 16
_MAX_JOINS = 3
"""How often one asker joins a fetch that then fails without having asked its own upstream."""


class _Question(NamedTuple):
    """Whether an upstream has a blob. A purge of the repository makes it another question.

    Attributes:
        place: ``UpstreamRepository.key``.
    """

    place: str
    digest: Digest
    generation: Generation


class SiteCache:
    """A ``RegistryBackend`` over the site's blob store, of which it is the only writer."""

    def __init__(
        self,
        store: BlobStore,
        upstreams: Upstreams,
        nearby: Nearby = nothing_nearby,
        pace: Pace | None = None,
        backups: Nearby = nothing_nearby,
    ) -> None:
        self.store = store
        self.upstreams = upstreams
        self._nearby = nearby
        self._backups = backups
        self._failures = RecentFailures()
        turns = Turns(store.root / "tags" / ".turns")
        self.manifest_store = manifests = ManifestStore(store.root, store.ledger)
        self.synced = SyncedTags(store, manifests)
        self._pace = pace or Pace(None)
        self._paced: set[Digest] = set()
        self._access = Access(lambda place: manifests.generation(place.upstream, place.repository))
        self._manifests = Manifests(
            manifests,
            self._access,
            self._failures,
            turns,
            nearby=nearby,
            backups=self._backups_for,
            synced=self.synced.get,
        )
        self._referrers = Referrers(self._manifests, self._failures)
        self._tag_lists = TagLists(self._access, self.synced)
        self._arrivals = Arrivals(store)
        self._private = PrivateBlobs(store)
        self._heads: Flights[_Question, tuple[UpstreamRepository, int]] = Flights()
        self._proofs: Flights[_Question, None] = Flights()
        store.removed.append(self._private.forget)
        self._places: WeakKeyDictionary[Arrival, list[UpstreamRepository]] = WeakKeyDictionary()

    async def close(self) -> None:
        await self._manifests.close()
        await self._heads.close()
        await self._proofs.close()
        await self._access.close()
        self._pace.stop()
        await self._arrivals.close()
        self._pace.close()

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        place = self.upstreams.resolve(target)
        try:
            digest = Digest.parse(reference)
        except InputError:
            return await self._manifests.by_tag(place, reference)
        return await self._manifests.by_digest(place, digest)

    async def purge(self, target: Target, tag: str | None) -> tuple[UpstreamRepository, int]:
        """Forgets what a tag, or every tag of a repository, means, and what upstream said not to have there.

        Returns:
            The repository, and how many tags were known.

        Raises:
            NotFoundError: no upstream is meant. StorageError.
        """
        place = self.upstreams.resolve(target)
        return place, await self._manifests.purge(place, tag)

    async def set_synced(self, place: UpstreamRepository, tag: str, meant: SyncedTag) -> None:
        """Sets a tag that a sync rule keeps here.

        Raises:
            PreconditionError: something of it is missing. UnacceptableError, StorageError.
        """
        await asyncio.to_thread(self.synced.put, place.upstream, place.repository, tag, meant)
        if not meant.is_answer:  # it has just moved there: nodes of the registry's own site see it at once
            await self._manifests.note(place, tag, meant.digest)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        place = self.upstreams.resolve(target)
        size_bytes = self._size_here(digest)
        if size_bytes is None:
            return (await self._head(place, digest))[1]
        await self._check_may_have(place, digest)
        return size_bytes

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
        place = self.upstreams.resolve(target)
        if self.store.has(digest):
            await self._check_may_have(place, digest)
            try:
                return await self.store.open(digest)
            except NotFoundError:
                _LOG.info("%s was evicted this moment: fetching it again", digest)
        return await (await self.arrival(target, digest)).open()

    def limit_sync(self, bytes_per_second: int | None) -> None:
        """The cap on what comes for sync alone, at all processes of this host. None: none."""
        self._pace.set(bytes_per_second)

    async def look(self, place: UpstreamRepository, digest: Digest, is_config: bool, limit_bytes: int) -> bytes:
        """A manifest or a config as it is here, at a sibling, or upstream; what is not here is not kept.

        Raises:
            NotFoundError, SourceError, IntegrityError, UnacceptableError.
        """
        if not is_config:
            held = await self.held_manifest(digest)
            near = held or await fetch_manifest_nearby(place, digest, self._nearby)
            if near is not None:
                return near.body
            try:
                return (await place.client.manifest(place.repository, str(digest))).body
            except (NotFoundError, SourceError):
                kept = await manifest_kept(place, str(digest), self._backups_for(place))
                if kept is None:
                    raise
                return kept.body
        if await self.holds_for_everyone(digest) and self.store.size_bytes(digest) <= limit_bytes:
            return await asyncio.to_thread(self.store.path(digest).read_bytes)
        return await first_bytes(place, digest, limit_bytes, self._nearby, self._backups_for(place))

    def _backups_for(self, place: UpstreamRepository) -> Sequence[Source]:
        """Those that may be read for an asker: where upstream says who may have what, none unless it has said so."""
        is_granted = not place.needs_grant or self._access.may_read(place, has_failed=True)
        return self._backups() if place.is_trusted and is_granted else ()

    async def arrival(self, target: Target, digest: Digest, *, for_sync: bool = False) -> Arrival:
        """The blob's way into the site, begun now if it is not there. Returned once its size is known.

        Args:
            for_sync: as slowly as sync must, until somebody else wants it.

        Raises:
            NotFoundError: no such upstream, or it has no such blob. SourceError, StorageError: as the fetch raised.
        """
        place = self.upstreams.resolve(target)
        joins = 0
        while True:
            arrival = await self._join(place, digest, for_sync)
            joins += 1
            try:
                await arrival.wait_begun()
            except (NotFoundError, SourceError):
                # Our own upstream's answer, if it was asked. If not (we joined when the others had just failed),
                # what others said of theirs is no answer to us.
                self._failures.check(self._question(place, digest))
                if joins == _MAX_JOINS:
                    raise
            else:
                # Only now: whose bytes they are is known when an upstream has answered.
                await self._check_may_have(place, digest)
                return arrival

    async def _join(self, place: UpstreamRepository, digest: Digest, for_sync: bool) -> Arrival:
        under_way = self._arrivals.get(digest)
        if not for_sync:
            self._paced.discard(digest)
        elif under_way is None and not self.store.has(digest):
            self._paced.add(digest)
        if under_way is not None:
            # Somebody else's fetch may fail where ours would not: it tries our place after its own.
            others = self._places.get(under_way, [])
            if place not in others and len(others) < _MAX_PLACES:
                others.append(place)
            return under_way
        if not self.store.has(digest):
            self._failures.check(self._question(place, digest))
        places = [place]
        arrival = await self._arrivals.join(digest, None, lambda writer: self._fetch_paced(places, writer))
        self._places[arrival] = places
        return arrival

    async def holds_for_everyone(self, digest: Digest) -> bool:
        """Whether the blob is here and needs no grant."""
        return self.store.has(digest) and await self._private.owners(digest) is None

    async def held_manifest(self, digest: Digest) -> ManifestAnswer | None:
        """A manifest that is here and needs no grant."""
        return await self._manifests.held(digest)

    def size_here(self, digest: Digest) -> int | None:
        """Of a blob or a manifest that is in the site. Blocking; raises StorageError."""
        if self.store.has(digest):
            return self.store.size_bytes(digest)
        body = self.manifest_store.body(digest)
        return len(body) if body is not None else None

    def is_arriving(self, digest: Digest) -> bool:
        return self._arrivals.get(digest) is not None

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        place = self.upstreams.resolve(target)
        return await self._tag_lists.page(place, target, query)

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        place = self.upstreams.resolve(target)
        with self._access.asking(place):
            return await self._referrers.of(place, target, digest, query)

    async def keep_referrers(self, place: UpstreamRepository, digest: Digest) -> Digest | None:
        """As ``Referrers.keep``, for the site itself."""
        return await self._referrers.keep(place, digest)

    async def _fetch_paced(self, places: list[UpstreamRepository], writer: BlobWriter) -> None:
        try:
            await self._fetch(places, writer)
        finally:
            self._paced.discard(writer.digest)

    def _paces(self, digest: Digest) -> Callable[[int], None]:
        def take(size_bytes: int) -> None:
            if digest in self._paced:
                self._pace.take(size_bytes, lambda: digest in self._paced)

        return take

    async def _fetch(self, places: list[UpstreamRepository], writer: BlobWriter) -> None:
        """From the first place that has it, of all that were asked for meanwhile.

        What a registry of anybody's has begun ends with it: who was let in on its word alone must not be given what
        another place, perhaps a private one, sends.
        """
        for place in places:  # grows while we wait
            try:
                await self._fetch_from(place, writer)
                return
            except (NotFoundError, SourceError) as error:
                if not place.is_trusted and writer.has_begun:
                    raise IntegrityError(
                        f"{place} broke off {writer.digest}: what it sent is dropped; ask again"
                    ) from error
                if place is places[-1]:
                    raise

    async def _fetch_from(self, place: UpstreamRepository, writer: BlobWriter) -> None:
        async def claim() -> None:
            self._access.note(place, may_read=True)
            if place.is_private:
                await self._private.add(writer.digest, place.owner)
            else:
                await self._private.lift(writer.digest)

        try:
            if not place.is_trusted and writer.offset and self._private.has(writer.digest):
                raise SourceError(f"{writer.digest} has begun to arrive for others: {place} cannot go on with it")
            with self._access.asking(place):
                place = await self._access.settled(place, lambda place: _size_upstream(place, writer.digest))
                if place.needs_grant and self._nearby():
                    await _size_upstream(place, writer.digest)  # that a sibling has it is no grant of upstream's
                backups = self._backups_for(place)
                await fetch_blob(place, writer, self._nearby, backups, claim, self._paces(writer.digest))
        except ImagedistError as error:
            FETCHES.labels(kind="blob", outcome=type(error).__name__).inc()
            if not isinstance(error, LyingSourceError):  # else somebody else is asked next
                self._remember(place, writer.digest, error)
            _LOG.warning("fetch of %s from %s failed: %s", writer.digest, place, error)
            raise
        FETCHES.labels(kind="blob", outcome="done").inc()

    def may_swarm(self, place: UpstreamRepository, digest: Digest) -> bool:
        """Whether all nodes may have a blob that was brought for this asker."""
        if not place.needs_grant or place.settings.private_in_swarm:
            return place.may_swarm
        return not self.is_private(digest)

    def is_private(self, digest: Digest) -> bool:
        """Whether who has the blob must ask before giving it on. Known once it has begun to arrive."""
        return self._private.has(digest)

    def _size_here(self, digest: Digest) -> int | None:
        if self.store.has(digest):
            return self.store.size_bytes(digest)
        arrival = self._arrivals.get(digest)
        return arrival.size_bytes if arrival is not None else None

    async def _check_may_have(self, place: UpstreamRepository, digest: Digest) -> None:
        """A private blob is given to who may read in a repository that has it, as upstream says if we do not know.

        Raises:
            NotFoundError: it is not there. SourceError: it cannot be asked. ChallengeError: not for this asker.
        """
        owners = await self._private.owners(digest)
        if owners is None:
            return
        is_known = place.has_account and place.owner in owners
        if is_known and self._access.may_read(place):
            if not place.is_private and not place.needs_grant:  # the configuration says so since the note was written
                await self._private.lift(digest)
            return
        try:
            place, size_bytes = await self._head(place, digest)
        except UnauthorizedError:
            raise
        except SourceError as error:
            if not is_known or not self._access.may_read(place, has_failed=True):
                raise
            _LOG.warning("giving %s of %s unasked: %s", digest, place, error)
            return
        if self._size_here(digest) not in (None, size_bytes):  # a server that says 200 to anything
            raise NotFoundError(f"registry {place.client.name} has no {place}@{digest}")
        if not place.is_trusted:
            question = self._question(place, digest)
            await self._proofs.run(question, lambda: self._prove(place, digest))
        if place.is_private:
            await self._private.add(digest, place.owner)
        else:
            await self._private.lift(digest)

    async def _prove(self, place: UpstreamRepository, digest: Digest) -> None:
        """Anybody may run a registry that says to have everything: before that opens a private blob, it must send it.

        Raises:
            NotFoundError: it sends something else.
        """
        hasher = digest.hasher()
        async with place.client.sources[-1].client.blob(place.repository, digest) as stream:
            async for chunk in stream:
                hasher.update(chunk)
        if not digest.matches(hasher):
            _LOG.warning("%s says to have %s, which is private elsewhere, but sends something else", place, digest)
            raise NotFoundError(f"registry {place.client.name} has no {place}@{digest}")

    async def _head(self, place: UpstreamRepository, digest: Digest) -> tuple[UpstreamRepository, int]:
        """The blob's size as the upstream says it, asked once however many ask, and the place as it is known then."""

        async def ask() -> tuple[UpstreamRepository, int]:
            try:
                with self._access.asking(place):
                    known = await self._access.settled(place, lambda place: _size_upstream(place, digest))
                    size_bytes = await _size_upstream(known, digest)
            except (NotFoundError, UnauthorizedError) as error:
                self._remember(place, digest, error)
                raise
            self._access.note(known, may_read=True)
            return known, size_bytes

        question = self._question(place, digest)
        self._failures.check(question)
        return await self._heads.run(question, ask)

    def _question(self, place: UpstreamRepository, digest: Digest) -> _Question:
        return _Question(place.key, digest, self._access.generation(place))

    def _remember(self, place: UpstreamRepository, digest: Digest, error: ImagedistError) -> None:
        self._failures.remember(self._question(place, digest), error, place.settings.negative_ttl.total_seconds())


async def _size_upstream(place: UpstreamRepository, digest: Digest) -> int:
    return await place.client.blob_size(place.repository, digest)
