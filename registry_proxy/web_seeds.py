"""Web seeds (BEP 19): URLs that give one blob for ten minutes to whoever has them, signed with the site's token.

libtorrent sends no credentials to a web seed. So a node that may have a blob asks for such a URL, which is checked by
nothing but its signature: HMAC-SHA256 (RFC 2104) over digest and expiry, with a key that every proxy of the site
derives from the site token. A site without a token has no key: it names the plain URL of what everyone may have.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Handler

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.distribution.challenges import sent_authorization
from imagedist.distribution.rate import Cap
from imagedist.distribution.routes import Refusal, parse_route
from imagedist.distribution.surface import add_registry_routes
from imagedist.errors import InputError, NotFoundError, UnauthorizedError
from imagedist.metrics import WEB_SEEDS_REFUSED
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name
from imagedist.service.client_certificates import GUARDED_OTHERWISE
from imagedist.store.reading import OpenBlob
from registry_proxy.cache import SiteCache

_LIFE_SECONDS = 600
"""A node takes one when its swarm stalls, and a new one before this is over."""
_SIGNED = "/signed"
_PURPOSE = b"imagedist web seed 1"


class Signatures:
    """
    Args:
        token: the site token.
        clock: seconds since the epoch; injected by tests.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(token.encode(), _PURPOSE, "sha256")
        self._clock = clock

    def query(self, digest: Digest) -> dict[str, str]:
        """What has to be in a URL."""
        expires = int(self._clock()) + _LIFE_SECONDS
        return {"expires": str(expires), "signature": self._sign(digest, expires)}

    def refusal(self, digest: Digest, query: Mapping[str, str]) -> tuple[str, str] | None:
        """Why a URL does not give this blob: a word to count and a sentence; None: it does."""
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if not expires or not signature:
            return "unsigned", "this URL needs a signature: ask the proxy for a web seed of the blob"
        if not expires.isdecimal() or len(expires) > 12:
            return "malformed", "expires is not a time in seconds"
        # Bytes, because compare_digest refuses non-ASCII strings and a query may hold anything.
        if not hmac.compare_digest(
            signature.encode("utf-8", "surrogateescape"), self._sign(digest, int(expires)).encode()
        ):
            return "forged", "the signature is not this site's, or not for this blob and this expiry"
        if int(expires) < self._clock():
            return "expired", "this URL has expired: ask the proxy for a new web seed of the blob"
        return None

    def _sign(self, digest: Digest, expires: int) -> str:
        return hmac.digest(self._key, f"{digest}\n{expires}".encode(), "sha256").hex()


class _Committed:
    """A ``RegistryBackend`` of whole blobs that are here, whoever asks: the signature was checked before."""

    def __init__(self, cache: SiteCache) -> None:
        self._cache = cache

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        raise NotFoundError("web seeds are blobs", "MANIFEST_UNKNOWN")

    async def blob_size(self, target: Target, digest: Digest) -> int:
        return self._cache.store.size_bytes(digest)

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
        return await self._cache.store.open(digest)

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        raise NotFoundError("web seeds are blobs", "NAME_UNKNOWN")

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        raise NotFoundError("web seeds are blobs", "NAME_UNKNOWN")


class WebSeeds:
    """``GET /site/v1/web-seeds/{digest}`` names a blob's web seed; ``/site/v1/signed/v2/…`` is the signed ones' place.

    Args:
        rate: the cap on what this proxy sends, shared with every other way.
        needs_certificate: who shows none gets nothing here but by a signature.
    """

    def __init__(
        self,
        cache: SiteCache,
        token: str | None,
        *,
        max_downloads: int,
        rate: Cap | None,
        needs_certificate: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._signatures = Signatures(token, clock) if token is not None else None
        self._max_downloads = max_downloads
        self._rate = rate
        self._needs_certificate = needs_certificate

    def add_routes(self, site: web.Application) -> None:
        site.router.add_get("/web-seeds/{digest}", self.get_web_seed)
        if self._signatures is not None:
            app = web.Application(middlewares=[self._checked])
            app[GUARDED_OTHERWISE] = True
            add_registry_routes(app, _Committed(self._cache), max_downloads=self._max_downloads, rate=self._rate)
            site.add_subapp(_SIGNED, app)

    async def get_web_seed(self, request: web.Request) -> web.Response:
        """``?ns=&repo=``: ``{"path", "life_seconds"}``; no life: the path is good for ever.

        Raises (rendered as site errors):
            InputError: a malformed digest or repository. NotFoundError: not here, or no web seed for it.
            UnauthorizedError, SourceError: this asker may not have it, or it cannot be told.
        """
        digest = Digest.parse(request.match_info["digest"])
        namespace, repository = request.query.get("ns"), request.query.get("repo", "")
        if not is_name(repository):
            raise InputError(f"invalid repo {repository[:200]!r}: expected a repository name")
        if not self._cache.store.has(digest):
            raise NotFoundError(f"{digest} is not here: ask for its torrent, which brings it")
        await self._cache.blob_size(
            Target(namespace, repository, sent_authorization(request)), digest
        )  # may he have it?
        path = f"/v2/{repository}/blobs/{digest}"
        query = {"ns": namespace} if namespace is not None else {}
        if self._signatures is not None:
            signed = urlencode(query | self._signatures.query(digest))
            return _named(f"/site/v1{_SIGNED}{path}?{signed}", _LIFE_SECONDS)
        if self._needs_certificate:
            raise UnauthorizedError(
                "no web seed: sessions show no certificate, and a site without site_token_file cannot sign a URL", 403
            )
        if not await self._cache.holds_for_everyone(digest):
            raise NotFoundError(f"{digest} is private, and a site without site_token_file cannot sign a web seed")
        return _named(f"{path}?{urlencode(query)}" if query else path, None)

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        assert self._signatures is not None
        route = parse_route(request.path.partition(f"{_SIGNED}/v2/")[2])
        if isinstance(route, Refusal) or route.kind != "blob" or route.digest is None:
            refused: tuple[str, str] | None = ("malformed", "web seeds are blobs")
        else:
            refused = self._signatures.refusal(route.digest, request.query)
        if refused is not None:
            cause, reason = refused
            WEB_SEEDS_REFUSED.labels(cause=cause).inc()
            raise web.HTTPForbidden(text=reason)
        return await handler(request)


def _named(path: str, life_seconds: int | None) -> web.Response:
    return web.json_response({"format": 1, "path": path, "life_seconds": life_seconds})
