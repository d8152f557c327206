"""The /v2 routes over a ``RegistryBackend`` (OCI distribution spec 1.1, the pull half; facts of real clients)."""

from __future__ import annotations

import logging
import re
import time

from aiohttp import web

from imagedist.distribution.admission import Admission
from imagedist.distribution.backend import ManifestAnswer, Page, RegistryBackend, Target
from imagedist.distribution.bodies import send_bytes
from imagedist.distribution.ranges import ByteRange, Unsatisfiable, parse_range
from imagedist.distribution.rate import TokenBucket
from imagedist.distribution.rendering import refuse, render, warning_header
from imagedist.distribution.routes import Refusal, Route, parse_route
from imagedist.errors import ImagedistError
from imagedist.metrics import BYTES_SERVED, REQUESTS
from imagedist.oci.digest import Digest

log = logging.getLogger(__name__)

MAX_REQUESTS = 512
_NAMESPACE = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}\Z")
_MEDIA_TYPE = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]{1,250}\Z")


def add_registry_routes(
    app: web.Application,
    backend: RegistryBackend,
    *,
    max_requests: int = MAX_REQUESTS,
    rate: TokenBucket | None = None,
) -> None:
    """Serves ``/v2/`` of an application from a backend.

    Args:
        max_requests: how many run at once; four times as many queue, then 503.
        rate: a cap over the bytes of all blobs sent.
    """
    surface = _Surface(backend, Admission(max_requests), rate)
    app.router.add_route("*", "/v2", surface.handle)
    app.router.add_route("*", "/v2/{path:.*}", surface.handle)


class _Surface:
    def __init__(self, backend: RegistryBackend, admission: Admission, rate: TokenBucket | None) -> None:
        self._backend = backend
        self._admission = admission
        self._rate = rate

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every request of /v2: parsed, admitted, answered, counted. Errors end here, as OCI JSON."""
        started = time.monotonic()
        route = parse_route(request.match_info.get("path", ""))
        if request.method not in ("GET", "HEAD"):
            response: web.StreamResponse = refuse(405, "UNSUPPORTED", "this is a mirror: push to the registry itself")
            response.headers["Allow"] = "GET, HEAD"
        elif isinstance(route, Refusal):
            response = refuse(route.status, route.code, route.message)
        else:
            try:
                async with self._admission.enter():
                    response = await self._answer(request, route)
            except ImagedistError as error:
                log.info("%s %s: %s", request.method, request.path_qs, error)
                response = render(error)
        if not response.prepared:
            response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
        kind = "refused" if isinstance(route, Refusal) else route.kind
        REQUESTS.labels(route=kind, status=str(response.status)).inc()
        log.info(
            "%s %s %d %s bytes %.3f s %s",
            request.method,
            request.path_qs,
            response.status,
            response.content_length,
            time.monotonic() - started,
            request.remote,
        )
        return response

    async def _answer(self, request: web.Request, route: Route) -> web.StreamResponse:
        if route.kind == "base":
            return web.json_response({})
        namespace = request.query.get("ns")
        if namespace is not None and not _NAMESPACE.match(namespace):
            return refuse(400, "NAME_INVALID", "invalid ns: expected a registry host")
        target = Target(namespace, route.name, request.headers.get("Authorization"))
        if route.kind == "manifest":
            return self._manifest(request, target, await self._backend.manifest(target, route.reference))
        if route.kind == "tags":
            count = request.query.get("n", "")
            listed = await self._backend.tags(
                target, int(count) if re.fullmatch("[0-9]{1,6}", count) else None, request.query.get("last")
            )
            return _page(target, listed)
        assert route.digest is not None
        if route.kind == "referrers":
            artifact_type = request.query.get("artifactType")
            return _page(target, await self._backend.referrers(target, route.digest, artifact_type))
        return await self._blob(request, target, route.digest)

    def _manifest(self, request: web.Request, target: Target, answer: ManifestAnswer) -> web.Response:
        headers = _headers(target, answer.digest)
        if answer.warning:
            headers["Warning"] = warning_header(answer.warning)
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = _safe_media_type(answer.media_type)
        if request.method == "GET":
            BYTES_SERVED.labels(kind="manifest").inc(len(answer.body))
        return web.Response(body=answer.body, headers=headers)

    async def _blob(self, request: web.Request, target: Target, digest: Digest) -> web.StreamResponse:
        headers = _headers(target, digest)
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        if request.method == "HEAD":
            headers["Content-Length"] = str(await self._backend.blob_size(target, digest))
            return web.Response(headers=headers)
        blob = await self._backend.open_blob(target, digest)
        try:
            total_bytes = blob.size_bytes
            wanted = request.headers.get("Range")
            if request.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
                wanted = None
            part = parse_range(wanted, total_bytes)
            if isinstance(part, Unsatisfiable):
                response = refuse(416, "RANGE_INVALID", f"the blob has {total_bytes} bytes")
                response.headers["Content-Range"] = f"bytes */{total_bytes}"
                return response
            if part is not None:
                headers["Content-Range"] = part.content_range
            stream = web.StreamResponse(status=200 if part is None else 206, headers=headers)
            part = part or ByteRange(0, total_bytes, total_bytes)
            stream.content_length = part.size_bytes
            stream.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
            try:
                await send_bytes(request, stream, blob, part, self._rate)
            except (ImagedistError, ConnectionError, TimeoutError) as error:
                if not stream.prepared:
                    raise
                # the promised length cannot be kept: end the connection, so that nobody takes this for a whole body
                log.warning("broke off %s of %s for %s: %s", digest, target.name, request.remote, error)
                if request.transport is not None:
                    request.transport.abort()
            return stream
        finally:
            await blob.close()


def _headers(target: Target, digest: Digest) -> dict[str, str]:
    headers = {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}
    if target.namespace is not None:
        headers["OCI-Namespace"] = target.namespace
    return headers


def _page(target: Target, page: Page) -> web.Response:
    headers = {"Content-Type": _safe_media_type(page.media_type)}
    if target.namespace is not None:
        headers["OCI-Namespace"] = target.namespace
    if page.link:
        headers["Link"] = page.link
    if page.filters_applied:
        headers["OCI-Filters-Applied"] = page.filters_applied
    return web.Response(body=page.body, headers=headers)


def _safe_media_type(media_type: str) -> str:
    """As pushed; what could not stand in a header is not passed on."""
    return media_type if _MEDIA_TYPE.match(media_type) else "application/octet-stream"
