"""What a node asks of its site: documents, blobs, torrents; orders to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.bulk import Consume
from imagedist.oci.digest import Digest
from imagedist.oci.tls import Tls
from imagedist.site.answers import ACTION_HEADER, BLOB_TYPE, PRIVATE_HEADER, Arriving, FoundTorrent, Purged, SmallBlob
from imagedist.site.clients import Clients
from imagedist.site.delivery import Delivery
from imagedist.site.proxies import Proxies
from imagedist.site.questions import Questions
from imagedist.site.seeders import Seeders
from imagedist.site.web_seeds import WebSeeds
from imagedist.swarm.torrent import MAX_TORRENT_BYTES

ShapeT = TypeVar("ShapeT", bound=BaseModel)

_INLINE_BYTES = 256 << 10
"""A blob that is no larger comes with the first answer: a question less saves 2 of 6 ms for 100 kB."""
_ORDER_SECONDS = 30.0
"""More: the proxy that is asked may have to ask others."""


class Site:
    """What a node asks of its site.

    Args:
        proxies, seeders: base URLs, tried in this order, those that failed lately last.
        node_id: who we are, for the first wave and the inventory.
        token: the site token, for routes that change the site's state.
        rate: caps the bytes of blobs fetched by HTTP, those under way included.
        tls: for https URLs of the site, if the system's authorities are not enough.

    Attributes:
        seeders: what is asked of those.
        web_seeds: where the swarm session may take a blob from by HTTP.
    """

    def __init__(
        self,
        proxies: Sequence[str],
        seeders: Sequence[str],
        node_id: str,
        token: str | None = None,
        rate: ChangingRate | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._proxies = Proxies(proxies)
        self._questions = Questions(node_id, token, tls)
        self.seeders = Seeders(seeders, self._questions, node_id)
        self.web_seeds = WebSeeds(self._proxies, self._questions)
        self._clients = Clients(tls)
        self._delivery = Delivery(self._proxies, self._clients, rate or ChangingRate(None))

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        """A manifest by tag or digest.

        Raises:
            NotFoundError: the site does not have it. SourceError: no proxy answers.
        """

        async def ask(url: str) -> ManifestAnswer:
            fetched = await self._clients.of(url, target).manifest(target.name, reference)
            return ManifestAnswer(fetched.digest, fetched.media_type, fetched.body, fetched.warning)

        return await self._proxies.first(ask)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        """The blob's length. Raises as ``manifest``."""
        return await self._proxies.first(lambda url: self._clients.of(url, target).blob_size(target.name, digest))

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        """One page of tags. Raises as ``manifest``."""
        return await self._proxies.first(lambda url: self._clients.of(url, target).tags(target.name, query))

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        """The referrers of a manifest. Raises as ``manifest``."""
        return await self._proxies.first(
            lambda url: self._clients.of(url, target).referrers(target.name, digest, query)
        )

    async def deliver(
        self, target: Target, digest: Digest, size_bytes: int, offset: int, consume: Consume, threads: Executor
    ) -> None:
        """Hands the blob's bytes from ``offset`` on to ``consume``, in a thread of ``threads``, as they come by HTTP;
        goes on at the next proxy where one broke off.

        Raises:
            NotFoundError, SourceError. What ``consume`` raises.
        """
        await self._delivery.deliver(target, digest, size_bytes, offset, consume, threads)

    async def way(self, target: Target, digest: Digest) -> FoundTorrent | Arriving | SmallBlob:
        """How this node should get a blob, at once. Raises as ``torrent``."""
        query = {"wait": "0", "inline": str(_INLINE_BYTES)}
        return await self._proxies.first(lambda url: self._ask_way(url, target, digest, 0, query))

    async def torrent(
        self, target: Target, digest: Digest, wait_seconds: float, *, is_streaming: bool = False
    ) -> FoundTorrent | Arriving:
        """The blob's torrent, or what to do while the blob arrives at the site.

        Args:
            wait_seconds: how long the site may hold the answer back (long-poll).
            is_streaming: this node takes the blob by HTTP already.

        Raises:
            NotFoundError: nobody has it. SourceError: no proxy answers.
        """
        query = {"wait": f"{wait_seconds:g}", **({"streaming": "1"} if is_streaming else {})}
        answer = await self._proxies.first(lambda url: self._ask_way(url, target, digest, wait_seconds, query))
        if isinstance(answer, SmallBlob):
            raise SourceError(f"a proxy sent {digest} itself where its torrent was asked for")
        return answer

    async def _ask_way(
        self, url: str, target: Target, digest: Digest, wait_seconds: float, query: Mapping[str, str]
    ) -> FoundTorrent | Arriving | SmallBlob:
        query = {"repo": target.name, **query}
        if target.namespace is not None:
            query["ns"] = target.namespace
        async with self._questions.ask(
            "GET", f"{url}/site/v1/torrents/{digest}", wait_seconds, query, authorization=target.authorization
        ) as response:
            if response.status == 200:
                headers = response.headers
                is_private = headers.get(PRIVATE_HEADER) == "1"
                body = await response.content.read(MAX_TORRENT_BYTES + 1)
                while len(body) <= MAX_TORRENT_BYTES and (more := await response.content.read(MAX_TORRENT_BYTES)):
                    body += more
                if response.content_type == BLOB_TYPE:
                    return SmallBlob(body, is_private)
                return FoundTorrent(body, is_private, "stream" if headers.get(ACTION_HEADER) == "stream" else "swarm")
            try:
                return Arriving.model_validate_json(await response.read())
            except ValidationError as error:
                raise SourceError(f"{url} answered nonsense about {digest}; is it an imagedist proxy?") from error

    async def wants_credentials(self) -> bool:
        """Whether the site's mirror asks clients for their own credentials, as ``GET /v2/`` tells.

        Raises:
            SourceError: no proxy answers.
        """

        async def ask(url: str) -> bool:
            try:
                async with self._questions.ask("GET", f"{url}/v2/", 0, {}):
                    return False
            except UnauthorizedError:
                return True

        return await self._proxies.first(ask)

    async def prefix(self, registry: str) -> str:
        """The path prefix under which the site serves a registry (``ns`` cannot be typed into ``docker pull``).

        Raises:
            NotFoundError: no such upstream; names those there are. SourceError.
        """

        async def ask(url: str) -> str:
            async with self._questions.ask("GET", f"{url}/site/v1/upstreams", 0, {}) as response:
                try:
                    document = json.loads(await response.read())
                    upstreams: dict[str, list[str]] = document["upstreams"]
                    serves_any = bool(document.get("any"))
                except (ValueError, KeyError, TypeError) as error:
                    raise SourceError(f"{url} names no upstreams; is it an imagedist proxy?") from error
            for prefix, hosts in upstreams.items():
                if registry == prefix or registry in hosts:
                    return prefix
            if serves_any and "." in registry and ":" not in registry:
                return registry
            known = ", ".join(sorted(upstreams))
            raise NotFoundError(f"the site serves no registry {registry}; it serves: {known}", "NAME_UNKNOWN")

        return await self._proxies.first(ask)

    async def purge(self, namespace: str, repository: str, tag: str | None, *, here_only: bool = False) -> Purged:
        """Has the site forget what a tag, or every tag of a repository, means.

        Args:
            here_only: the proxy that is asked, and no other of its site.

        Raises:
            NotFoundError: no such upstream. SourceError: refused, or not done everywhere.
        """
        query = {"ns": namespace, "repo": repository}
        if tag is not None:
            query["tag"] = tag
        if here_only:
            query["here"] = "1"

        return await self.call("DELETE", "tags", query, Purged)

    async def call(self, method: str, path: str, query: Mapping[str, str], shape: type[ShapeT]) -> ShapeT:
        """A question or an order to the site's first proxy that answers, ``/site/v1/{path}``.

        Raises:
            NotFoundError: it says so. SourceError: no proxy answers, or it refuses.
        """

        async def ask(url: str) -> ShapeT:
            async with self._questions.ask(
                method, f"{url}/site/v1/{path}", _ORDER_SECONDS, query, is_operator=True
            ) as response:
                try:
                    return shape.model_validate_json(await response.read())
                except ValidationError as error:
                    raise SourceError(
                        f"{url} answered nonsense to {method} {path}; is it an imagedist proxy of this version?"
                    ) from error

        return await self._proxies.first(ask)

    async def unready(self) -> str | None:
        """Why this node cannot be served: no proxy of the site answers. None: one does."""
        try:
            await self._proxies.first(self._alive)
        except SourceError as error:
            return str(error)
        return None

    async def _alive(self, url: str) -> None:
        async with self._questions.ask("GET", f"{url}/livez", 0, {}):
            pass

    async def close(self) -> None:
        await self._clients.close()
        await self._questions.close()
