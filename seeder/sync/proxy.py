"""The site's proxy as sync asks it: what the registry says, orders to fetch, tags to keep. All bytes go through it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from imagedist.distribution.backend import Target
from imagedist.errors import NotFoundError, SourceError
from imagedist.oci.client import FetchedManifest
from imagedist.oci.digest import Digest
from imagedist.oci.page import Page
from imagedist.oci.tls import Tls
from imagedist.site.clients import Clients
from imagedist.site.proxies import Proxies
from imagedist.site.questions import Questions
from imagedist.site_sync import (
    FetchState,
    KeptTags,
    ReferrersNow,
    RepositoryPage,
    SyncedTag,
    TagNow,
    UpstreamList,
)

ShapeT = TypeVar("ShapeT", bound=BaseModel)

_CONFIG_LIMIT_BYTES = 8 << 20
_PAGE = 1000
_MAX_PAGES = 1000
"""A million names: a registry that goes on for ever is cut off."""


class SiteProxy:
    """
    Args:
        urls: the site's proxies; the first that answers does. token: the site's. tls: for https ones.
    """

    def __init__(self, urls: Sequence[str], site: str, token: str | None, tls: Tls | None = None) -> None:
        self._proxies = Proxies(urls)
        self._questions = Questions(f"seeder of {site}", token, tls)
        self._clients = Clients(tls)

    async def close(self) -> None:
        await self._clients.close()
        await self._questions.close()

    async def upstreams(self) -> UpstreamList:
        """Raises SourceError: no proxy answers."""
        return await self._get("upstreams", {}, UpstreamList)

    async def repositories(self, upstream: str) -> AsyncIterator[str]:
        """Every repository that the registry tells of.

        Raises:
            NotFoundError, UnauthorizedError: it tells nobody, or not us. SourceError.
        """
        query = {"ns": upstream}
        for _ in range(_MAX_PAGES):
            page = await self._get("registry/repositories", query, RepositoryPage)
            for name in page.repositories:
                yield name
            if page.last is None:
                return
            query["last"] = page.last
        raise SourceError(f"registry {upstream} comes to no end of its repositories")

    async def tags(self, upstream: str, repository: str) -> list[str]:
        """Every tag that the registry has there now; none of a repository that it does not know. Raises SourceError."""
        found: list[str] = []
        target = Target(upstream, repository)
        for _ in range(_MAX_PAGES):
            query = {"n": str(_PAGE)} | ({"last": found[-1]} if found else {})
            try:
                page = await self._tags_page(target, query)
                tags = [str(tag) for tag in json.loads(page.body)["tags"] or ()]
            except NotFoundError as error:
                if found:  # half a list would mean that the other half was deleted
                    raise SourceError(f"registry {upstream} broke off the list of tags of {repository}") from error
                await self._check_is_proxy(upstream, error)
                return found
            except (ValueError, KeyError, TypeError) as error:
                raise SourceError(f"registry {upstream} sent no list of tags of {repository}") from error
            found += tags
            if page.link is None or not tags:
                return found
        raise SourceError(f"registry {upstream} comes to no end of the tags of {repository}")

    async def _tags_page(self, target: Target, query: dict[str, str]) -> Page:
        return await self._proxies.first(lambda url: self._clients.of(url, target).tags(target.name, query))

    async def tag_now(self, upstream: str, repository: str, tag: str) -> Digest | None:
        """What the registry itself says at this moment; None: it has no such tag. Raises SourceError."""
        query = {"ns": upstream, "repo": repository, "tag": tag}
        try:
            return (await self._get("registry/tag", query, TagNow)).digest
        except NotFoundError as error:
            await self._check_is_proxy(upstream, error)
            return None

    async def referrers(self, upstream: str, repository: str, digest: Digest) -> Digest | None:
        """An index of what refers to a manifest, of the registry's own list; None: nothing does.

        Raises:
            NotFoundError: the registry has no such list of any manifest. SourceError.
        """
        query = {"ns": upstream, "repo": repository}
        return (await self._get(f"registry/referrers/{digest}", query, ReferrersNow)).digest

    async def _check_is_proxy(self, upstream: str, said: NotFoundError) -> None:
        """Whoever has nothing at all may be anybody: that a tag is gone counts from a proxy that knows the registry.

        Raises:
            SourceError: it is none, or does not.
        """
        try:
            known = await self.upstreams()
        except NotFoundError:
            raise SourceError(f"the site's proxy is none: it knows no upstreams ({said})") from said
        if upstream not in known.upstreams:
            raise SourceError(f"the site's proxy knows no upstream {upstream}: {said}") from said

    async def manifest(self, upstream: str, repository: str, digest: Digest) -> bytes:
        """A manifest, which the site has from then on. Raises NotFoundError, SourceError, IntegrityError."""
        return (await self.fetched_manifest(upstream, repository, digest)).body

    async def fetched_manifest(self, upstream: str, repository: str, digest: Digest) -> FetchedManifest:
        """The same with its media type. Raises as ``manifest``."""
        target = Target(upstream, repository)
        return await self._proxies.first(lambda url: self._clients.of(url, target).manifest(repository, str(digest)))

    async def look(self, upstream: str, repository: str, digest: Digest, *, is_config: bool = False) -> bytes:
        """A manifest or a config that the site need not keep. Raises NotFoundError, SourceError, IntegrityError."""
        query = {"ns": upstream, "repo": repository, "kind": "config" if is_config else "manifest"}

        async def ask(url: str) -> bytes:
            path = f"{url}/site/v1/registry/documents/{digest}"
            async with self._questions.ask("GET", path, 0, query) as answer:
                return await answer.read()

        body = await self._proxies.first(ask)
        if Digest.of(body, digest.algorithm) != digest:
            raise SourceError(f"the site's proxy sent wrong bytes for {digest}")
        return body

    async def fetch(
        self, upstream: str, repository: str, digest: Digest, bytes_per_second: int | None, wait_seconds: float
    ) -> FetchState:
        """Orders a blob into the site, and says how far it is.

        Args:
            bytes_per_second: the cap on all that comes for sync. wait_seconds: how long it may take to answer.

        Raises:
            NotFoundError: nobody has it. SourceError: it did not arrive; ask again.
        """
        order = {
            "format": 1,
            "ns": upstream,
            "repo": repository,
            "for_sync": True,
            "bytes_per_second": bytes_per_second,
        }
        query = {"wait": f"{wait_seconds:g}"}

        async def ask(url: str) -> FetchState:
            path = f"{url}/site/v1/blobs/{digest}/fetch"
            async with self._questions.ask("POST", path, wait_seconds, query, order) as answer:
                return _parse(await answer.read(), FetchState, url)

        return await self._proxies.first(ask)

    async def put_tag(self, upstream: str, repository: str, tag: str, meant: SyncedTag) -> None:
        """Raises SourceError: something of it is missing, or it cannot be written."""
        await self._change("PUT", upstream, repository, tag, meant.model_dump(mode="json"))

    async def synced(self) -> dict[str, tuple[Digest, frozenset[Digest]]]:
        """The tags that sync keeps at the proxy, ``name:tag``, with the manifests that were left out. SourceError."""
        return {
            f"{each.upstream}/{each.repository}:{each.tag}": (each.digest, frozenset(each.skipped))
            for each in (await self._get("synced", {}, KeptTags)).tags
        }

    async def drop_tag(self, upstream: str, repository: str, tag: str) -> None:
        """None there is fine. Raises SourceError."""
        try:
            await self._change("DELETE", upstream, repository, tag, None)
        except NotFoundError:
            return

    async def has(self, repository: str, digest: Digest) -> bool:
        """Whether the site holds a blob for everyone. Raises SourceError."""
        return await self._proxies.first(lambda url: holds(self._questions, url, repository, digest))

    async def is_for_everyone(self, repository: str, digest: Digest, kind: str) -> bool:
        """Whether the site gives a blob or a manifest (``kind``: ``blobs``, ``manifests``) to its siblings, too.

        Raises:
            SourceError.
        """
        return await self._proxies.first(lambda url: holds(self._questions, url, repository, digest, kind))

    async def _change(self, method: str, upstream: str, repository: str, tag: str, body: object) -> None:
        query = {"ns": upstream, "repo": repository, "tag": tag}

        async def ask(url: str) -> None:
            async with self._questions.ask(method, f"{url}/site/v1/synced", 0, query, body):
                pass

        await self._proxies.first(ask)

    async def _get(self, path: str, query: dict[str, str], shape: type[ShapeT]) -> ShapeT:
        async def ask(url: str) -> ShapeT:
            async with self._questions.ask("GET", f"{url}/site/v1/{path}", 0, query, is_operator=True) as answer:
                return _parse(await answer.read(), shape, url)

        return await self._proxies.first(ask)


async def holds(questions: Questions, url: str, repository: str, digest: Digest, kind: str = "blobs") -> bool:
    """Whether a site's proxy holds a blob that everyone may have. Raises SourceError."""
    try:
        async with questions.ask("HEAD", f"{url}/site/v1/held/v2/{repository}/{kind}/{digest}", 0, {}):
            return True
    except NotFoundError:
        return False


def _parse(body: bytes, shape: type[ShapeT], url: str) -> ShapeT:
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise SourceError(f"{url} answered nonsense; is it an imagedist proxy of this version?") from error
