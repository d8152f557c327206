"""One upstream as it is asked: its mirrors in order, then the registry itself; who lies is left alone for a while."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from imagedist.errors import IntegrityError, NotFoundError, SourceError
from imagedist.metrics import FAILURES
from imagedist.oci.client import FetchedManifest, ManifestHead, RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.page import Page

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

BLAMED_SECONDS = 600.0
"""How long a source that has sent wrong bytes is not asked."""
SUSPECTED_SECONDS = 60.0
"""And one of several that have sent parts of a whole that was wrong."""


class Source(NamedTuple):
    """
    Attributes:
        kind: ``sibling``, ``mirror``, ``upstream`` or ``backup``, as metrics call it.
        prefix: of a backup: what stands there before the name that sites have for a repository; None: of the others.
    """

    kind: str
    client: RegistryClient
    prefix: str | None = None

    def repository(self, upstream: str, repository: str) -> str:
        """What it calls a repository."""
        return repository if self.prefix is None else f"{self.prefix}{upstream}/{repository}"

    def blame(self, reason: str, seconds: float) -> None:
        """It is not asked for a while; the registry itself always is, as there is nobody else."""
        if self.kind != "upstream" and self.client.breaker is not None:
            self.client.breaker.blame(reason, seconds)


class UpstreamClient:
    """Asks for what a registry has; whoever answers first wins. Raises what the registry itself would.

    Args:
        registry: the registry itself. mirrors: asked before it, in this order. Closed with this.
    """

    def __init__(self, registry: RegistryClient, mirrors: Iterable[RegistryClient] = ()) -> None:
        self._registry = registry
        self.sources: Sequence[Source] = (*(Source("mirror", each) for each in mirrors), Source("upstream", registry))

    @property
    def name(self) -> str:
        return self._registry.name

    def with_authorization(self, header: str) -> UpstreamClient:
        """The registry itself, on behalf of another user; mirrors never see what clients send. Not closed."""
        return UpstreamClient(self._registry.with_authorization(header))

    async def manifest(self, repository: str, reference: str) -> FetchedManifest:
        return await self._first(lambda client: client.manifest(repository, reference))

    async def head_manifest(self, repository: str, reference: str) -> ManifestHead:
        return await self._first(lambda client: client.head_manifest(repository, reference))

    async def blob_size(self, repository: str, digest: Digest) -> int:
        return await self._first(lambda client: client.blob_size(repository, digest))

    async def tags(self, repository: str, query: Mapping[str, str]) -> Page:
        """From the registry itself: mirrors know the tags they were asked for."""
        return await self._registry.tags(repository, query)

    async def repositories(self, query: Mapping[str, str]) -> tuple[list[str], bool]:
        """A page of the registry's catalog, and whether it is the last one.

        Raises:
            NotFoundError: it does not tell its repositories. SourceError.
        """
        page = await self._registry.catalog(query)
        try:
            names = [str(name) for name in json.loads(page.body)["repositories"] or ()]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"registry {self.name} sent no catalog of repositories") from error
        return names, page.link is None

    async def referrers(self, repository: str, digest: Digest, query: Mapping[str, str]) -> Page:
        return await self._registry.referrers(repository, digest, query)

    async def close(self) -> None:
        for source in self.sources:
            await source.client.close()

    async def _first(self, ask: Callable[[RegistryClient], Awaitable[T]]) -> T:
        *before, last = self.sources
        for source in before:
            try:
                return await ask(source.client)
            except NotFoundError:
                pass  # a mirror need not have everything
            except SourceError as error:
                FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
                _LOG.info("mirror %s fails, asking the next one: %s", source.client.base_url, error)
            except IntegrityError as error:
                FAILURES.labels(source=source.kind, cause=type(error).__name__).inc()
                source.blame(str(error), BLAMED_SECONDS)
                _LOG.warning("mirror %s is not asked for %d s: %s", source.client.base_url, BLAMED_SECONDS, error)
        return await ask(last.client)
