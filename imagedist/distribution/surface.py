"""The /v2 routes over a ``RegistryBackend`` (OCI distribution spec 1.1, the pull half; docs/registry-api.md)."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from imagedist import hops
from imagedist.config.values import Fallback
from imagedist.distribution.admission import MAX_WAIT_SECONDS, Admission
from imagedist.distribution.backend import ManifestAnswer, Page, RegistryBackend, Target
from imagedist.distribution.bodies import send_bytes
from imagedist.distribution.challenges import TOKEN_PATH, challenge, give_token, sent_authorization
from imagedist.distribution.conditions import entity_tag, is_precondition_failed, is_range_meant, is_unchanged
from imagedist.distribution.holding import HOLD_SECONDS, Holding
from imagedist.distribution.ranges import ByteRange, Unsatisfiable, parse_range
from imagedist.distribution.rate import Cap
from imagedist.distribution.rendering import refuse, render, warning_header
from imagedist.distribution.routes import Refusal, Route, parse_route, pushed_name
from imagedist.distribution.served import SERVED, Served
from imagedist.distribution.tracing import HOP
from imagedist.errors import ChallengeError, ImagedistError, InputError
from imagedist.metrics import BYTES_SERVED
from imagedist.oci.digest import Digest

_LOG = logging.getLogger(__name__)

MAX_REQUESTS = 512
MAX_DOWNLOADS = 2048
"""A slow client's download lasts for minutes, and costs three descriptors and 16 KB, by TLS 260."""
_MAX_HELD = 100_000
"""Who is held with ``fallback = "never"`` is bounded by the connections there may be, which are fewer."""
_NAMESPACE = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}\Z")
_MEDIA_TYPE = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]{1,250}\Z")
_COUNT = re.compile(r"[0-9]{1,9}\Z")

UpstreamName = Callable[[Target], str | None]
"""What a request's target is called upstream, as users type it: ``docker.io/library/nginx``."""
WantsCredentials = Callable[[], Awaitable[bool]]


def add_registry_routes(
    app: web.Application,
    backend: RegistryBackend,
    *,
    max_requests: int = MAX_REQUESTS,
    max_downloads: int = MAX_DOWNLOADS,
    fallback: Fallback = "upstream",
    rate: Cap | None = None,
    upstream_name: UpstreamName | None = None,
    wants_credentials: WantsCredentials | None = None,
) -> None:
    """Serves ``/v2/`` of an application from a backend.

    Args:
        max_requests: how many short answers (all but blobs' bytes) run at once; four times as many queue, then 503.
        max_downloads: how many blobs are sent at once; as many queue.
        fallback: what happens past these bounds and upon failures: see ``holding``.
        rate: a cap over the bytes of all blobs sent.
        upstream_name: where pushes belong; by ``ns`` alone if not given.
        wants_credentials: whether ``/v2/`` asks for some: Docker and podman send none that were not asked for there.
    """
    is_held = fallback == "never"
    wait_seconds = HOLD_SECONDS if is_held else MAX_WAIT_SECONDS
    answers = Admission(max_requests, _MAX_HELD if is_held else 4 * max_requests, wait_seconds, lane="answers")
    downloads = Admission(max_downloads, _MAX_HELD if is_held else max_downloads, wait_seconds, lane="downloads")
    holding = Holding() if is_held else None
    name = upstream_name or _by_namespace
    surface = _Surface(backend, answers, downloads, holding, rate, name, wants_credentials, app.get(HOP, ""))
    app.router.add_get(TOKEN_PATH, give_token)
    app.router.add_post(TOKEN_PATH, give_token)
    app.router.add_route("*", "/v2", surface.handle)
    app.router.add_route("*", r"/v2/{path:[\s\S]*}", surface.handle)


def _by_namespace(target: Target) -> str | None:
    return f"{target.namespace}/{target.name}" if target.namespace else None


class _Surface:
    def __init__(
        self,
        backend: RegistryBackend,
        answers: Admission,
        downloads: Admission,
        holding: Holding | None,
        rate: Cap | None,
        upstream_name: UpstreamName,
        wants_credentials: WantsCredentials | None,
        hop: str,
    ) -> None:
        self._backend = backend
        self._answers = answers
        self._downloads = downloads
        self._holding = holding
        self._rate = rate
        self._upstream_name = upstream_name
        self._wants_credentials = wants_credentials
        self._hop = hop

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every request of /v2: parsed, admitted, answered. Errors end here, as OCI JSON."""
        hops.begin()
        path = request.match_info.get("path", "")
        route = parse_route(path)
        namespace = request.query.get("ns")
        if namespace is not None and not _NAMESPACE.match(namespace):
            namespace, route = None, Refusal(400, "NAME_INVALID", "invalid ns: expected a registry host")
        served = request[SERVED] = _noted(route, namespace)
        response: web.StreamResponse
        if request.method not in ("GET", "HEAD"):
            response = self._refuse_push(request, pushed_name(path), namespace)
        elif isinstance(route, Refusal):
            _LOG.info("%s %s refused: %s", request.method, _logged(request), route.message)
            response = refuse(route.status, route.code, route.message)
        else:
            try:
                target = Target(namespace, route.name, sent_authorization(request))
                if self._holding is None:
                    response = await self._answer(request, route, target)
                else:
                    response = await self._held(self._holding, request, route, target)
            except ImagedistError as error:
                _LOG.info("%s %s: %s", request.method, _logged(request), error)
                served.error = str(error)
                response = render(error)
                if isinstance(error, ChallengeError):
                    scope = f"repository:{route.name}:pull" if route.name else None
                    response.headers["WWW-Authenticate"] = challenge(request, scope)
                if self._holding is not None and response.status >= 500:
                    response.set_status(429)
                    response.headers["Retry-After"] = str(random.randint(1, 5))
        if not response.prepared:
            response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
            self._trace(response)
            if namespace is not None:
                response.headers["OCI-Namespace"] = namespace
        return response

    def _trace(self, response: web.StreamResponse) -> None:
        if self._hop:
            response.headers[hops.HEADER] = hops.line(self._hop)

    def _refuse_push(self, request: web.Request, name: str | None, namespace: str | None) -> web.Response:
        """405: nothing is ever pushed through a mirror, nor deleted."""
        upstream = None
        if name is not None:
            try:
                upstream = self._upstream_name(Target(namespace, name))
            except ImagedistError:  # of no upstream: the message says all the same that this is a mirror
                upstream = None
        where = f"push to {upstream} itself" if upstream else "push to the registry itself"
        _LOG.info("%s %s refused: %s", request.method, _logged(request), where)
        response = refuse(405, "UNSUPPORTED", f"this is a mirror, for pulls only: {where}")
        response.headers["Allow"] = "GET, HEAD"
        return response

    async def _held(self, holding: Holding, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        return await holding.run(lambda: self._answer(request, route, target), lambda: request.transport is not None)

    async def _answer(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        is_download = route.kind == "blob" and request.method == "GET"
        async with self._downloads if is_download else self._answers:
            return await self._answer_now(request, route, target)

    async def _answer_now(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        if route.kind == "base":
            if self._wants_credentials and "Authorization" not in request.headers and await self._wants_credentials():
                raise ChallengeError("log in, or ask for an anonymous token")
            return web.json_response({})
        if route.kind == "manifest":
            return self._manifest(request, await self._backend.manifest(target, route.reference))
        if route.kind == "tags":
            return _page(await self._backend.tags(target, _query(request)))
        assert route.digest is not None
        if route.kind == "referrers":
            return _page(await self._backend.referrers(target, route.digest, _query(request)))
        return await self._blob(request, target, route.digest)

    def _manifest(self, request: web.Request, answer: ManifestAnswer) -> web.Response:
        """As it was pushed, whatever ``Accept`` says: a digest names one document, and every client knows all types."""
        request[SERVED].source = "hit" if answer.is_kept else "miss"
        headers = _headers(answer.digest)
        if answer.warning:
            headers["Warning"] = warning_header(answer.warning)
        if (decided := _decided_by_conditions(request, answer.digest, headers)) is not None:
            return decided
        headers["Content-Type"] = _safe_media_type(answer.media_type)
        if request.method == "GET":
            BYTES_SERVED.labels(kind="manifest").inc(len(answer.body))
        return web.Response(body=answer.body, headers=headers)

    async def _blob(self, request: web.Request, target: Target, digest: Digest) -> web.StreamResponse:
        headers = _headers(digest)
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        is_conditional = "If-None-Match" in request.headers or "If-Match" in request.headers
        if request.method == "HEAD" or is_conditional:  # only of what this client may have
            size_bytes = await self._backend.blob_size(target, digest)
            if (decided := _decided_by_conditions(request, digest, headers)) is not None:
                return decided
            if request.method == "HEAD":
                return web.Response(headers={**headers, "Content-Length": str(size_bytes)})
        blob = await self._backend.open_blob(target, digest)
        request[SERVED].source = "hit" if blob.is_verified else "miss"
        try:
            total_bytes = blob.size_bytes
            wanted = request.headers.get("Range")
            if not is_range_meant(request.headers.get("If-Range"), digest):
                wanted = None
            part = parse_range(wanted, total_bytes)
            if isinstance(part, Unsatisfiable):
                _LOG.info(
                    "%s %s: range %.100s lies outside of %d bytes", request.method, request.path, wanted, total_bytes
                )
                response = refuse(416, "SIZE_INVALID", f"the blob has {total_bytes} bytes")
                response.headers["Content-Range"] = f"bytes */{total_bytes}"
                return response
            if part is not None:
                headers["Content-Range"] = part.content_range
            stream = web.StreamResponse(status=200 if part is None else 206, headers=headers)
            part = part or ByteRange(0, total_bytes, total_bytes)
            stream.content_length = part.size_bytes
            stream.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
            self._trace(stream)
            if target.namespace is not None:
                stream.headers["OCI-Namespace"] = target.namespace
            try:
                await send_bytes(request, stream, blob, part, self._rate)
            except (ImagedistError, ConnectionError, TimeoutError) as error:
                if not stream.prepared:
                    raise
                # the promised length cannot be kept: end the connection, so that nobody takes this for a whole body
                _LOG.warning("broke off %s of %s for %s: %s", digest, target.name, request.remote, error)
                if request.transport is not None:
                    request.transport.abort()
            return stream
        finally:
            await blob.close()


def _noted(route: Route | Refusal, namespace: str | None) -> Served:
    if isinstance(route, Refusal):
        return Served("refused", namespace or "", error=route.message)
    return Served(
        route.kind, namespace or "", route.name, route.reference or (str(route.digest) if route.digest else "")
    )


def _headers(digest: Digest) -> dict[str, str]:
    return {"Docker-Content-Digest": str(digest), "ETag": entity_tag(digest)}


def _decided_by_conditions(request: web.Request, digest: Digest, headers: dict[str, str]) -> web.Response | None:
    """412 or 304, in the order of RFC 9110 §13.2.2."""
    if is_precondition_failed(request.headers.getall("If-Match", ()), digest):
        return refuse(412, "UNSUPPORTED", f"If-Match names another version than {digest}")
    if is_unchanged(request.headers.getall("If-None-Match", ()), digest):
        return web.Response(status=304, headers=headers)
    return None


def _query(request: web.Request) -> dict[str, str]:
    """All of it but ``ns``: a link to a next page may have any query of the upstream's own.

    Raises:
        InputError: ``n`` is no number of tags.
    """
    query = {name: value for name, value in request.query.items() if name != "ns"}
    count = query.get("n", "0")
    if not _COUNT.match(count):
        raise InputError(f"invalid n {count[:40]!r}: expected how many tags to list")
    return query


def _page(page: Page) -> web.Response:
    headers = {"Content-Type": _safe_media_type(page.media_type)}
    if page.link:
        headers["Link"] = page.link
    if page.filters_applied:
        headers["OCI-Filters-Applied"] = page.filters_applied
    return web.Response(body=page.body, headers=headers)


def _safe_media_type(media_type: str) -> str:
    """As pushed; what could not stand in a header is not passed on."""
    return media_type if _MEDIA_TYPE.match(media_type) else "application/octet-stream"


def _logged(request: web.Request) -> str:
    """Path and query, but for the signature of a web seed, which gives its blob to who reads the log."""
    return str(request.rel_url.without_query_params("signature"))
