"""How a missing blob comes into the site: from sibling sites by cost, from mirrors in order, from the registry."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from imagedist.errors import IntegrityError, NotFoundError, SourceError
from imagedist.metrics import BYTES_BY_SOURCE, FAILURES
from imagedist.store.arrival import BlobWriter
from registry_proxy.upstream import UpstreamRepository
from registry_proxy.upstream_client import BLAMED_SECONDS, SUSPECTED_SECONDS, Source

log = logging.getLogger(__name__)

Siblings = Callable[[], Sequence[Source]]
"""The sibling sites that are worth asking now, nearest first."""


class LyingSourceError(IntegrityError):
    """Wrong bytes, but not of the registry itself: the next fetch asks another source."""


def no_siblings() -> Sequence[Source]:
    return ()


async def fetch_blob(
    place: UpstreamRepository, writer: BlobWriter, siblings: Siblings, claim: Callable[[], Awaitable[None]]
) -> None:
    """Brings a blob from the first source that has it; the next one goes on where one broke off.

    Args:
        claim: called before the first byte of a source is written.

    Raises:
        NotFoundError, SourceError: the last source's answer, the registry's own.
        LyingSourceError, IntegrityError: what came is wrong; who has sent it is blamed.
        StorageError.
    """
    sources = [*(siblings() if place.may_swarm else ()), *place.client.sources]
    senders: list[Source] = []
    for source in sources:
        before = writer.offset
        try:
            await _fetch_from(source, place, writer, claim)
            writer.check()
            return
        except IntegrityError as error:
            FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
            senders.append(source)
            if _blame(senders, writer):
                raise LyingSourceError(str(error)) from error
            raise
        except (NotFoundError, SourceError) as error:
            FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
            if source is sources[-1]:
                raise
            log.info("%s not from %s %s: %s", writer.digest, source.kind, source.client.base_url, error)
        if writer.offset > before:
            senders.append(source)


async def _fetch_from(
    source: Source, place: UpstreamRepository, writer: BlobWriter, claim: Callable[[], Awaitable[None]]
) -> None:
    received = BYTES_BY_SOURCE.labels(source=source.kind)

    def take(chunk: bytes | memoryview) -> None:
        writer.append(chunk)
        received.inc(len(chunk))

    async with source.client.blob(place.repository, writer.digest, writer.offset) as stream:
        await claim()
        await writer.begin(stream.size_bytes)
        await stream.deliver(take, writer.threads)


def _blame(senders: Sequence[Source], writer: BlobWriter) -> bool:
    """Whether somebody else than the registry may have been wrong, and so is left alone now."""
    suspects = [source for source in senders if source.kind != "upstream"]
    seconds = BLAMED_SECONDS if len(senders) == 1 else SUSPECTED_SECONDS
    for source in suspects:
        source.blame(f"it sent wrong bytes of {writer.digest}", seconds)
        log.warning("%s %s is not asked for %d s", source.kind, source.client.base_url, seconds)
    return bool(suspects)
