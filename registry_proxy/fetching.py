"""How a missing blob comes into the site: from sibling sites by cost, mirrors in order, the registry, backups last."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from imagedist.errors import IntegrityError, NotFoundError, SourceError, UnacceptableError
from imagedist.metrics import BYTES_BY_SOURCE, FAILURES
from imagedist.oci.client import FetchedManifest
from imagedist.oci.digest import Digest
from imagedist.store.writer import BlobWriter
from registry_proxy.upstream import UpstreamRepository
from registry_proxy.upstream_client import BLAMED_SECONDS, SUSPECTED_SECONDS, Source

_LOG = logging.getLogger(__name__)

Nearby = Callable[[], Sequence[Source]]
"""The sibling sites, or the backups, there are now, nearest first."""


class LyingSourceError(IntegrityError):
    """Wrong bytes, but not of the registry itself: the next fetch asks another source."""


def nothing_nearby() -> Sequence[Source]:
    return ()


async def fetch_blob(
    place: UpstreamRepository,
    writer: BlobWriter,
    nearby: Nearby,
    backups: Sequence[Source],
    claim: Callable[[], Awaitable[None]],
    pace: Callable[[int], None],
) -> None:
    """Brings a blob from the first source that has it; the next one goes on where one broke off.

    Args:
        backups: asked last. claim: called before the first byte of a source is written.
        pace: called in the receiving thread with the size of what came; returns when more may come.

    Raises:
        NotFoundError, SourceError: the registry's own answer.
        LyingSourceError, IntegrityError: what came is wrong; who has sent it is blamed.
        StorageError.
    """
    sources = [*(nearby() if place.may_swarm else ()), *place.client.sources, *backups]
    senders: list[Source] = []
    answer: NotFoundError | SourceError | None = None
    for source in sources:
        before = writer.offset
        try:
            await _fetch_from(source, place, writer, claim, pace)
            writer.check()
            return
        except IntegrityError as error:
            FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
            senders.append(source)
            if _blame(senders, writer) or writer.is_resumed:
                raise LyingSourceError(str(error)) from error
            raise
        except (NotFoundError, SourceError) as error:
            FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
            if source.kind == "upstream":
                answer = error
            if source is sources[-1]:
                raise answer or error from None
            _LOG.info("%s not from %s %s: %s", writer.digest, source.kind, source.client.base_url, error)
        if writer.offset > before:
            senders.append(source)


async def fetch_manifest_nearby(place: UpstreamRepository, digest: Digest, nearby: Nearby) -> FetchedManifest | None:
    """A manifest that a sibling site holds, its digest checked. None: ask the upstream."""
    for source in nearby() if place.may_swarm else ():
        try:
            found = await source.client.manifest(place.repository, str(digest))
        except NotFoundError:
            continue
        except (SourceError, IntegrityError) as error:
            FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
            _LOG.info("%s not from %s %s: %s", digest, source.kind, source.client.base_url, error)
            if isinstance(error, IntegrityError):
                source.blame(str(error), BLAMED_SECONDS)
        else:
            BYTES_BY_SOURCE.labels(source=source.kind).inc(len(found.body))
            return found
    return None


async def manifest_kept(place: UpstreamRepository, reference: str, sources: Sequence[Source]) -> FetchedManifest | None:
    """What the first of these has for a tag or a digest, when the registry cannot be asked. None: none has it.

    A sibling is asked by the name that sites have for the repository: its own tags, or those that sync keeps there.
    """
    for source in sources:
        name = f"{place.upstream}/{place.repository}"
        if source.kind == "backup":
            name = source.repository(place.upstream, place.repository)
        try:
            found = await source.client.manifest(name, reference)
        except NotFoundError:
            continue
        except (SourceError, IntegrityError, UnacceptableError) as error:
            FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
            _LOG.info("%s:%s not from %s %s: %s", place, reference, source.kind, source.client.base_url, error)
        else:
            BYTES_BY_SOURCE.labels(source=source.kind).inc(len(found.body))
            _LOG.warning("%s:%s is answered by %s %s", place, reference, source.kind, source.client.base_url)
            return found
    return None


async def first_bytes(
    place: UpstreamRepository, digest: Digest, limit_bytes: int, nearby: Nearby, backups: Sequence[Source]
) -> bytes:
    """A small blob from the first source that has it, its digest checked; it is not kept.

    Raises:
        NotFoundError, SourceError, IntegrityError, UnacceptableError: the registry's own answer.
    """
    for source in nearby() if place.may_swarm else ():
        try:
            return await source.client.blob_bytes(place.repository, digest, limit_bytes)
        except (NotFoundError, SourceError, IntegrityError) as error:
            _LOG.info("%s not from %s %s: %s", digest, source.kind, source.client.base_url, error)
    try:
        return await place.client.sources[-1].client.blob_bytes(place.repository, digest, limit_bytes)
    except (NotFoundError, SourceError):
        for source in backups:
            try:
                name = source.repository(place.upstream, place.repository)
                return await source.client.blob_bytes(name, digest, limit_bytes)
            except (NotFoundError, SourceError, IntegrityError) as error:
                _LOG.info("%s not from %s %s: %s", digest, source.kind, source.client.base_url, error)
        raise


async def _fetch_from(
    source: Source,
    place: UpstreamRepository,
    writer: BlobWriter,
    claim: Callable[[], Awaitable[None]],
    pace: Callable[[int], None],
) -> None:
    received = BYTES_BY_SOURCE.labels(source=source.kind)

    def take(chunk: bytes | memoryview) -> None:
        writer.append(chunk)
        received.inc(len(chunk))
        pace(len(chunk))

    repository = source.repository(place.upstream, place.repository)
    async with source.client.blob(repository, writer.digest, writer.offset) as stream:
        await claim()
        await writer.begin(stream.size_bytes)
        await stream.deliver(take, writer.threads)


def _blame(senders: Sequence[Source], writer: BlobWriter) -> bool:
    """Whether somebody else than the registry may have been wrong, and so is left alone now."""
    suspects = [source for source in senders if source.kind != "upstream"]
    seconds = BLAMED_SECONDS if len(senders) == 1 and not writer.is_resumed else SUSPECTED_SECONDS
    for source in suspects:
        source.blame(f"it sent wrong bytes of {writer.digest}", seconds)
        _LOG.warning("%s %s is not asked for %d s", source.kind, source.client.base_url, seconds)
    return bool(suspects)
