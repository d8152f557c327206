"""One site as a node sees it: lists of proxies and seeders; when one is gone, the next one answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlencode

import aiohttp
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import ChallengeError, NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.bulk import BlobStream, Consume, deliver_chunks
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.http import STALL_SECONDS
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.tls import Tls
from imagedist.swarm.torrent import MAX_TORRENT_BYTES

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
ShapeT = TypeVar("ShapeT", bound=BaseModel)

_UNHEALTHY_SECONDS = 10.0
"""A proxy that failed is asked last for this long."""
PRIVATE_HEADER = "X-Imagedist-Private"
"""Of an answer with a torrent: the blob is not for everyone."""
_CLIENTS = 64
_CONNECT_SECONDS = 3.0
_ANSWER_SECONDS = 30.0
_ORDER_SECONDS = 30.0
"""More: the proxy that is asked may have to ask others."""


class Arriving(BaseModel):
    """The site is fetching the blob: its size, what is there, and what this node should do meanwhile."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    format: int = 1
    size_bytes: int = Field(alias="size", ge=0)
    present_bytes: int = Field(alias="present", default=0)
    action: Annotated[Literal["stream", "wait"], BeforeValidator(lambda told: told if told == "wait" else "stream")]
    """What only a newer site knows means stream: that always works."""
    is_swarm: bool = Field(alias="swarm", default=True)
    """Whether a torrent will follow; small and private blobs have none."""
    is_private: bool = Field(alias="private", default=False)
    """Whether whoever has the blob must ask the site before giving it on."""


class Purged(BaseModel):
    """What a purge did. ``tags``: how many were known, at all proxies together; ``proxies``: how many those are."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    upstream: str
    repository: str
    tag: str | None
    tags: int
    proxies: int


@dataclass(frozen=True, slots=True)
class FoundTorrent:
    """A blob's torrent. ``is_private``: whoever has the blob asks the site before giving it on."""

    content: bytes
    is_private: bool = False


class _CappedError(Exception):
    """A cap came while bytes flowed without one: a thread that receives cannot be slowed down, only stopped."""


@dataclass
class _Proxy:
    url: str
    failed_at: float = float("-inf")


class Site:
    """What a node asks of its site.

    Args:
        proxies, seeders: base URLs, tried in this order, those that failed lately last.
        node_id: who we are, for the first wave and the inventory.
        token: the site token, for routes that change the site's state.
        rate: caps the bytes of blobs fetched by HTTP, those under way included.
        tls: for https URLs of the site, if the system's authorities are not enough.
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
        self._proxies = [_Proxy(url) for url in proxies]
        self._seeders = tuple(seeders)
        self._node_id = node_id
        self._token = token
        self._rate = rate or ChangingRate(None)
        self._tls = tls
        self._clients: OrderedDict[tuple[str, str | None], RegistryClient] = OrderedDict()
        self._session: aiohttp.ClientSession | None = None

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        """A manifest by tag or digest.

        Raises:
            NotFoundError: the site does not have it. SourceError: no proxy answers.
        """

        async def ask(url: str) -> ManifestAnswer:
            fetched = await self._client(url, target).manifest(target.name, reference)
            return ManifestAnswer(fetched.digest, fetched.media_type, fetched.body, fetched.warning)

        return await self._first(ask)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        """The blob's length. Raises as ``manifest``."""
        return await self._first(lambda url: self._client(url, target).blob_size(target.name, digest))

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        """One page of tags. Raises as ``manifest``."""
        return await self._first(lambda url: self._client(url, target).tags(target.name, query))

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        """The referrers of a manifest. Raises as ``manifest``."""
        return await self._first(lambda url: self._client(url, target).referrers(target.name, digest, query))

    async def deliver(
        self, target: Target, digest: Digest, size_bytes: int, offset: int, consume: Consume, threads: Executor
    ) -> None:
        """Hands the blob's bytes from ``offset`` on to ``consume``, in a thread of ``threads``, as they come by HTTP;
        goes on at the next proxy where one broke off.

        Raises:
            NotFoundError, SourceError. What ``consume`` raises.
        """

        def counted(chunk: bytes | memoryview) -> None:
            nonlocal offset
            consume(chunk)
            offset += len(chunk)

        def uncapped(chunk: bytes | memoryview) -> None:
            counted(chunk)
            if self._rate.rate_bytes_per_second is not None and offset < size_bytes:
                raise _CappedError

        failure: SourceError | None = None
        proxies = deque(self._by_health())
        while proxies:
            proxy = proxies[0]
            try:
                async with self._client(proxy.url, target).blob(target.name, digest, offset) as stream:
                    if stream.size_bytes != size_bytes:
                        raise SourceError(f"{proxy.url} says {stream.size_bytes} bytes of {digest}, not {size_bytes}")
                    if self._rate.rate_bytes_per_second is None:
                        await stream.deliver(uncapped, threads)
                    else:
                        await deliver_chunks(_capped(stream, self._rate), counted, threads)
                return
            except _CappedError:
                continue  # at the byte that is next, from the same proxy
            except UnauthorizedError as error:
                raise _told(error) from error
            except SourceError as error:
                self._failed(proxies.popleft())
                failure = error
        raise failure or SourceError("no site proxy is configured")

    async def torrent(self, target: Target, digest: Digest, wait_seconds: float) -> FoundTorrent | Arriving:
        """The blob's torrent, or what to do while the blob arrives at the site.

        Args:
            wait_seconds: how long the site may hold the answer back (long-poll).

        Raises:
            NotFoundError: nobody has it. SourceError: no proxy answers.
        """
        return await self._first(lambda url: self._ask_torrent(url, target, digest, wait_seconds))

    async def _ask_torrent(
        self, url: str, target: Target, digest: Digest, wait_seconds: float
    ) -> FoundTorrent | Arriving:
        query = {"repo": target.name, "wait": f"{wait_seconds:g}"}
        if target.namespace is not None:
            query["ns"] = target.namespace
        async with self._ask(
            "GET", f"{url}/site/v1/torrents/{digest}", wait_seconds, query, authorization=target.authorization
        ) as response:
            if response.status == 200:
                body = await response.content.read(MAX_TORRENT_BYTES + 1)
                while len(body) <= MAX_TORRENT_BYTES and (more := await response.content.read(MAX_TORRENT_BYTES)):
                    body += more
                return FoundTorrent(body, response.headers.get(PRIVATE_HEADER) == "1")
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
                async with self._ask("GET", f"{url}/v2/", 0, {}):
                    return False
            except UnauthorizedError:
                return True

        return await self._first(ask)

    def blob_url(self, target: Target, digest: Digest) -> str:
        """The proxy's URL of a blob, as a web seed (BEP 19)."""
        query = f"?{urlencode({'ns': target.namespace})}" if target.namespace is not None else ""
        return f"{self._by_health()[0].url}/v2/{target.name}/blobs/{digest}{query}"

    async def prefix(self, registry: str) -> str:
        """The path prefix under which the site serves a registry (``ns`` cannot be typed into ``docker pull``).

        Raises:
            NotFoundError: no such upstream; names those there are. SourceError.
        """

        async def ask(url: str) -> str:
            async with self._ask("GET", f"{url}/site/v1/upstreams", 0, {}) as response:
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

        return await self._first(ask)

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
            async with self._ask(method, f"{url}/site/v1/{path}", _ORDER_SECONDS, query) as response:
                try:
                    return shape.model_validate_json(await response.read())
                except ValidationError as error:
                    raise SourceError(
                        f"{url} answered nonsense to {method} {path}; is it an imagedist proxy of this version?"
                    ) from error

        return await self._first(ask)

    async def heartbeat(self, labels: Mapping[str, str], version: str, peer_port: int | None = None) -> None:
        """Tells every seeder that this node lives.

        Args:
            peer_port: at which it lets peers in.

        Raises:
            SourceError: a seeder does not answer or refuses.
        """
        body = {"format": 1, "labels": dict(labels), "version": version, "peer_port": peer_port}
        failure: SourceError | None = None
        for url in self._seeders:
            try:
                async with self._ask("PUT", f"{url}/site/v1/nodes/{self._node_id}", 0, {}, body):
                    pass
            except SourceError as error:
                failure = error  # the others want to hear of us, too
        if failure is not None:
            raise failure

    async def unready(self) -> str | None:
        """Why this node cannot be served: no proxy of the site answers. None: one does."""
        try:
            await self._first(self._alive)
        except SourceError as error:
            return str(error)
        return None

    async def _alive(self, url: str) -> None:
        async with self._ask("GET", f"{url}/livez", 0, {}):
            pass

    @contextlib.asynccontextmanager
    async def _ask(
        self,
        method: str,
        url: str,
        wait_seconds: float,
        query: Mapping[str, str],
        body: object = None,
        authorization: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                timeout=timeout,
                headers={"X-Imagedist-Node": self._node_id, "User-Agent": "imagedist"},
                connector=aiohttp.TCPConnector(ssl=self._tls.context()) if self._tls is not None else None,
            )
        if self._token and method != "GET":
            authorization = f"Bearer {self._token}"
        headers = {"Authorization": authorization} if authorization else {}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS + wait_seconds):
                async with self._session.request(method, url, params=query, json=body, headers=headers) as response:
                    if response.status >= 400:
                        raise await _refusal(response, url)
                    yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SourceError(
                f"{url.partition('/site')[0]} does not answer: {error or type(error).__name__}"
            ) from error

    async def _first(self, ask: Callable[[str], Awaitable[T]]) -> T:
        failure: SourceError | None = None
        for proxy in self._by_health():
            try:
                answer = await ask(proxy.url)
            except UnauthorizedError as error:
                raise _told(error) from error
            except SourceError as error:
                self._failed(proxy)
                failure = error
            else:
                proxy.failed_at = float("-inf")
                return answer
        raise SourceError(f"the site cannot answer: {failure or 'no proxy is configured'}") from failure

    def _by_health(self) -> list[_Proxy]:
        since = asyncio.get_running_loop().time() - _UNHEALTHY_SECONDS
        return sorted(self._proxies, key=lambda proxy: proxy.failed_at > since)

    def _failed(self, proxy: _Proxy) -> None:
        proxy.failed_at = asyncio.get_running_loop().time()

    def _client(self, url: str, target: Target) -> RegistryClient:
        key = (url, target.namespace)
        client = self._clients.get(key)
        if client is not None:
            self._clients.move_to_end(key)
        else:
            client = self._clients[key] = RegistryClient(
                url,
                namespace=target.namespace,
                http=AiohttpClient(tls=self._tls) if self._tls is not None else None,
                answer_seconds=STALL_SECONDS,  # longer than the proxy may take to ask upstream again
            )
            # One client per registry name; hostile names must not pile up connections.
            while len(self._clients) > _CLIENTS:
                _, dropped = self._clients.popitem(last=False)
                asyncio.get_running_loop().create_task(dropped.close())
        return client.sending(target.authorization)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        if self._session is not None:
            await self._session.close()


async def _capped(stream: BlobStream, rate: ChangingRate) -> AsyncGenerator[bytes, None]:
    async for chunk in stream:
        await rate.take(len(chunk))
        yield chunk


def _told(error: UnauthorizedError) -> UnauthorizedError:
    """What the node's client is told: a proxy that challenges means him."""
    return ChallengeError(str(error), error.status) if error.status == 401 else error


async def _refusal(response: aiohttp.ClientResponse, url: str) -> SourceError | NotFoundError:
    code = ""
    try:
        said = json.loads(await response.read())["error"]
        message, code = str(said["message"]), said["code"]
    except (ValueError, KeyError, TypeError):
        message = f"{url} answered {response.status}"
    if response.status == 401 and code == ChallengeError.code:
        return ChallengeError(message, 401)
    if response.status == 404:
        return NotFoundError(message)
    if response.status in (401, 403):
        return UnauthorizedError(message)
    return SourceError(message)
