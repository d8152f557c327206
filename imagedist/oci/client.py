"""The registry client: manifests, tags and tokens as whole answers, blob bytes by ``imagedist.oci.bulk``.

Both by whatever ``Http`` it is given: aiohttp if nothing is said. Errors say which registry and what to check.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from imagedist.errors import InputError, IntegrityError, SourceError, UnacceptableError, UnauthorizedError
from imagedist.oci.auth import Credentials, FindCredentials
from imagedist.oci.authorizer import Authorizer, Authorizing, SentAsItIs, TokenRequest
from imagedist.oci.breaker import Breaker
from imagedist.oci.bulk import BlobStream, attempt_at
from imagedist.oci.digest import Digest
from imagedist.oci.exchange import ElsewhereError, Exchange
from imagedist.oci.http import STALL_SECONDS, Http, unreachable
from imagedist.oci.manifest import ACCEPT, MANIFEST_LIMIT_BYTES, OCI_INDEX
from imagedist.oci.page import Page
from imagedist.oci.retries import Sleep, TransientError, retry_after_seconds, retrying

ANSWER_SECONDS = 30.0
"""The longest pause in an answer."""
WHOLE_ANSWER_SECONDS = 120.0
"""4 MiB at 35 KB/s: a registry that drips bytes has not answered, and what is stale may be served instead."""
_TOKEN_LIMIT_BYTES = 1 << 20
_WARNING = re.compile(r'299 \S+ "([^"]{1,500})"')
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOST = "registry-1.docker.io"


class FetchedManifest(NamedTuple):
    """``warning``: what a mirror has to say about the answer (``Warning: 299``), such as that it is stale."""

    body: bytes
    media_type: str
    digest: Digest
    warning: str | None = None


class ManifestHead(NamedTuple):
    """What HEAD told; a registry may leave the digest out."""

    digest: Digest | None
    media_type: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _HeadRefusedError(SourceError):
    """Not worth another HEAD."""


class RegistryClient:
    """One registry, or a site's proxy or an agent that mirrors one. Close it, or use it as a context.

    Args:
        base_url: ``https://registry.example.com[:port]``, without ``/v2``.
        name: what messages call it; the URL's host if not given.
        credentials: sent to this registry and the token server it names, nowhere else; or how to find them when the
            registry asks for some.
        namespace: added as ``?ns=`` to every request (asking a mirror for another registry).
        path_prefix: put before every repository (asking a mirror that takes the upstream from the path).
        http: closed with this client; aiohttp if not given.
        answer_seconds: the longest pause in an answer that comes as a whole.
        first_byte_seconds: the longest wait for a blob to begin; some registries fetch all of it first.
        stall_seconds: the longest pause within a blob's body.
        breaker: leaves the registry alone while it keeps failing; None: it is always asked.
        sleep: injected by tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str | None = None,
        credentials: Credentials | FindCredentials | None = None,
        namespace: str | None = None,
        path_prefix: str = "",
        http: Http | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        first_byte_seconds: float = STALL_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        breaker: Breaker | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.name = name or urlsplit(base_url).netloc
        self._namespace = namespace
        self._path_prefix = path_prefix.strip("/") + "/" if path_prefix.strip("/") else ""
        self._answer_seconds = answer_seconds
        self._first_byte_seconds = first_byte_seconds
        self._stall_seconds = stall_seconds
        self.breaker = breaker
        self._sleep = sleep
        is_plain = urlsplit(base_url).scheme == "http"
        self._own = Authorizer(self.name, credentials, self._fetch_token, is_plain=is_plain)
        self._authorizing: Authorizing = self._own
        self._http = http or _aiohttp()

    @classmethod
    def for_registry(
        cls,
        registry: str,
        *,
        plain_http: bool = False,
        credentials: Credentials | FindCredentials | None = None,
        http: Http | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> Self:
        """A client of the registry that a reference names; ``docker.io``'s API lives at another host."""
        host = _DOCKER_HUB_HOST if registry == _DOCKER_HUB else registry
        scheme = "http" if plain_http else "https"
        return cls(f"{scheme}://{host}", name=registry, credentials=credentials, http=http, sleep=sleep)

    def __repr__(self) -> str:
        return f"<RegistryClient {self.base_url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()

    def with_authorization(self, header: str) -> RegistryClient:
        """The same registry asked on behalf of another user, by the ``Authorization`` header that he sent.

        Basic credentials do whatever the registry asks for, its token server included; what they obtain is kept for
        that user, scope by scope, in one bounded cache beside this client's own tokens, never mixed. A token
        (``Bearer``) is passed on as it is. Cheap: make one per request. Connections are shared: whoever made this
        client closes it, not what comes from here.

        Its requests raise UnauthorizedError when the registry refuses that user (401 and 403 alike).
        """
        return self._as(self._own.of_header(header))

    def sending(self, authorization: str | None) -> RegistryClient:
        """The same registry over the same connections, asked with this ``Authorization`` and nothing else.

        Whoever made this client closes it, not what comes from here.
        """
        return self._as(SentAsItIs(authorization))

    def _as(self, authorizing: Authorizing) -> RegistryClient:
        other = copy.copy(self)
        other._authorizing = authorizing
        return other

    async def manifest(self, repository: str, reference: str, accept: Sequence[str] = ACCEPT) -> FetchedManifest:
        """A manifest or index by tag or digest.

        Raises:
            NotFoundError, UnauthorizedError, SourceError.
            IntegrityError: not the bytes the digest names, or not those the registry's own header names.
            UnacceptableError: larger than any client accepts.
            SourceError: no JSON, such as the page of a login portal.
        """
        about = self._about(repository, reference)
        answer = await self._ask_manifest("GET", repository, reference, accept)
        if len(answer.body) > MANIFEST_LIMIT_BYTES:
            raise UnacceptableError(f"manifest of {about} is larger than {MANIFEST_LIMIT_BYTES} bytes")
        expected = _digest_or_none(reference) or _digest_or_none(answer.headers.get("Docker-Content-Digest", ""))
        digest = Digest.of(answer.body, expected.algorithm if expected else "sha256")
        if expected is not None and digest != expected:
            raise IntegrityError(f"registry {self.name} sent wrong bytes for {about}: digest {digest}")
        if answer.body.lstrip()[:1] != b"{":
            raise SourceError(f"registry {self.name} sent no manifest for {about}: expected JSON")
        warning = _WARNING.match(answer.headers.get("Warning", ""))
        return FetchedManifest(answer.body, _media_type(answer.headers), digest, warning[1] if warning else None)

    async def head_manifest(self, repository: str, reference: str, accept: Sequence[str] = ACCEPT) -> ManifestHead:
        """What a tag points to, without its bytes. Raises as ``manifest`` does."""
        answer = await self._ask_manifest("HEAD", repository, reference, accept)
        return ManifestHead(
            _digest_or_none(answer.headers.get("Docker-Content-Digest", "")), _media_type(answer.headers)
        )

    async def blob_size(self, repository: str, digest: Digest) -> int:
        """Bytes of a blob, by HEAD.

        Raises:
            NotFoundError, UnauthorizedError, SourceError.
        """
        try:
            answer = await self._ask("HEAD", "*/*", self._blob_exchange(repository, digest))
        except _HeadRefusedError:  # storage that was given a URL signed for GET only
            async with self.blob(repository, digest) as stream:
                return stream.size_bytes
        length = answer.headers.get("Content-Length", "")
        if not length.isdigit():
            raise SourceError(
                f"registry {self.name} does not state the length of {self._about(repository, str(digest))}"
            )
        return int(length)

    @asynccontextmanager
    async def blob(self, repository: str, digest: Digest, offset: int = 0) -> AsyncIterator[BlobStream]:
        """The bytes of a blob from ``offset`` on; the size is known on entering. Whoever reads checks the digest.

        Raises:
            NotFoundError, UnauthorizedError, SourceError: on entering, or while iterating.
        """
        stream = BlobStream(
            self._http,
            self._blob_exchange(repository, digest),
            name=self.name,
            about=self._about(repository, str(digest)),
            offset=offset,
            first_byte_seconds=self._first_byte_seconds,
            stall_seconds=self._stall_seconds,
            breaker=self.breaker,
            sleep=self._sleep,
        )
        try:
            await stream.connect()
            yield stream
        finally:
            await stream.close()

    async def blob_bytes(self, repository: str, digest: Digest, limit_bytes: int) -> bytes:
        """A small blob as a whole, its digest checked.

        Raises:
            IntegrityError: wrong bytes. UnacceptableError: larger than the limit. As ``blob``.
        """
        about = self._about(repository, str(digest))
        async with self.blob(repository, digest) as stream:
            if stream.size_bytes > limit_bytes:
                raise UnacceptableError(f"{about} has {stream.size_bytes} bytes, more than {limit_bytes}")
            content = b"".join([chunk async for chunk in stream])
        if Digest.of(content, digest.algorithm) != digest:
            raise IntegrityError(f"registry {self.name} sent wrong bytes for {about}")
        return content

    async def tags(self, repository: str, query: Mapping[str, str] | None = None) -> Page:
        """``tags/list``, one page as the registry sends it."""
        about = self._about(repository, "tags")
        return await self._list(repository, "tags/list", query or {}, about, "application/json")

    async def referrers(self, repository: str, digest: Digest, query: Mapping[str, str] | None = None) -> Page:
        """The referrers API's index, one page. NotFoundError when the registry does not have that API."""
        about = f"referrers of {self._about(repository, str(digest))}"
        return await self._list(repository, f"referrers/{digest}", query or {}, about, OCI_INDEX)

    async def catalog(self, query: Mapping[str, str] | None = None) -> Page:
        """The registry's repositories, one page as it sends it. NotFoundError when it does not tell them."""
        exchange = self._exchange_at("/v2/_catalog", query or {}, "registry:catalog:*", self.name, "NAME_UNKNOWN")
        answer = await self._ask("GET", "application/json", exchange)
        return Page(answer.body, _media_type(answer.headers), answer.headers.get("Link"))

    async def _list(self, repository: str, path: str, query: Mapping[str, str], about: str, media_type: str) -> Page:
        url_path = f"/v2/{self._path_prefix}{repository}/{path}"
        exchange = self._exchange_at(url_path, query, _pull_scope(repository), about, "NAME_UNKNOWN")
        answer = await self._ask("GET", media_type, exchange)
        if len(answer.body) > MANIFEST_LIMIT_BYTES:
            raise UnacceptableError(f"{about} is larger than {MANIFEST_LIMIT_BYTES} bytes")
        headers = answer.headers
        return Page(answer.body, _media_type(headers), headers.get("Link"), headers.get("OCI-Filters-Applied"))

    async def _ask_manifest(self, method: str, repository: str, reference: str, accept: Sequence[str]) -> _Answer:
        exchange = self._exchange_at(
            f"/v2/{self._path_prefix}{repository}/manifests/{reference}",
            {},
            _pull_scope(repository),
            self._about(repository, reference),
            "MANIFEST_UNKNOWN",
        )
        return await self._ask(method, ", ".join(accept), exchange)

    def _blob_exchange(self, repository: str, digest: Digest) -> Callable[[], Exchange]:
        path = f"/v2/{self._path_prefix}{repository}/blobs/{digest}"
        return self._exchange_at(
            path, {}, _pull_scope(repository), self._about(repository, str(digest)), "BLOB_UNKNOWN"
        )

    def _exchange_at(
        self, path: str, query: Mapping[str, str | None], scope: str, about: str, unknown_code: str
    ) -> Callable[[], Exchange]:
        """Makes a fresh exchange for every attempt: a redirect of the last one may have expired."""
        given = {key: value for key, value in query.items() if value is not None}
        if self._namespace is not None:
            given["ns"] = self._namespace
        url = f"{self.base_url}{path}" + (f"?{urlencode(given)}" if given else "")
        return partial(Exchange, url, self._authorizing, scope, name=self.name, about=about, unknown_code=unknown_code)

    def _about(self, repository: str, reference: str) -> str:
        registry = self._namespace or self.name
        return f"{registry}/{repository}{'@' if ':' in reference else ':'}{reference}"

    async def _ask(self, method: str, accept: str, begin: Callable[[], Exchange]) -> _Answer:
        async def attempt() -> _Answer:
            exchange = begin()
            with attempt_at(self.breaker, exchange):
                while True:
                    headers = exchange.headers | {"Accept": accept}
                    answer = await self._send(method, exchange.url, headers, MANIFEST_LIMIT_BYTES)
                    try:
                        if not await exchange.again(answer.status, answer.headers, answer.body):
                            return answer
                    except ElsewhereError as error:
                        if method == "HEAD":
                            raise _HeadRefusedError(str(error)) from error
                        raise

        return await retrying(self._sleep)(attempt)

    async def _fetch_token(self, request: TokenRequest) -> bytes:
        headers = {"Authorization": request.authorization} if request.authorization else {}
        url = request.realm
        if request.query:
            url += f"{'&' if urlsplit(url).query else '?'}{urlencode(request.query)}"
        form = None
        if request.form is not None:
            form = urlencode(request.form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        answer = await self._send("GET" if form is None else "POST", url, headers, _TOKEN_LIMIT_BYTES, form)
        if answer.status in (400, 401, 403):  # 400: an identity token that has expired (RFC 6749 §5.2)
            raise UnauthorizedError(
                f"registry {self.name} denied the login: check the credentials (docker login {self.name})"
            )
        if answer.status != 200:
            raise TransientError(
                f"the token server of registry {self.name} answered {answer.status}",
                retry_after_seconds(answer.headers.get("Retry-After")),
            )
        return answer.body

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], limit_bytes: int, form: bytes | None = None
    ) -> _Answer:
        """One request without redirects; reads at most one byte more than the limit."""
        try:
            async with asyncio.timeout(WHOLE_ANSWER_SECONDS):
                answer = await self._http.send(
                    method, url, headers, name=self.name, stall_seconds=self._answer_seconds, form=form
                )
                try:
                    body = bytearray()
                    while len(body) <= limit_bytes and (part := await answer.read(limit_bytes + 1 - len(body))):
                        body += part
                    return _Answer(answer.status, answer.headers, bytes(body))
                finally:
                    await answer.close()
        except OSError as error:
            raise TransientError(unreachable(self.name, error)) from error


def _aiohttp() -> Http:
    from imagedist.oci.http_aiohttp import AiohttpClient  # here: a pull by this process does without

    return AiohttpClient()


def _pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def _media_type(headers: Mapping[str, str]) -> str:
    return str(headers.get("Content-Type", "")).partition(";")[0].strip()


def _digest_or_none(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InputError:
        return None
