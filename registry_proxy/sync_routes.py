"""What the site's seeder asks for sync: what the registry says now, and the tags that it keeps here (docs/sync.md)."""

from __future__ import annotations

import asyncio

from aiohttp import web
from pydantic import BaseModel, ValidationError

from imagedist.distribution.backend import Target
from imagedist.errors import InputError, NotFoundError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag
from imagedist.site_sync import KeptTags, ReferrersNow, RepositoryPage, SyncedTag, TagNow
from registry_proxy.cache import SiteCache
from registry_proxy.upstream import UpstreamRepository

_PAGE = 1000
_CONFIG_LIMIT_BYTES = 8 << 20
"""containerd's and containers/image's bound for a config."""


class SyncRoutes:
    def __init__(self, cache: SiteCache) -> None:
        self._cache = cache

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/registry/repositories", self.repositories)
        app.router.add_get("/registry/tag", self.tag)
        app.router.add_get("/registry/referrers/{digest}", self.referrers)
        app.router.add_get("/registry/documents/{digest}", self.document)
        app.router.add_get("/synced", self.list)
        app.router.add_put("/synced", self.put)
        app.router.add_delete("/synced", self.drop)

    async def repositories(self, request: web.Request) -> web.Response:
        """``?ns=&last=``: a page of the registry's catalog.

        Raises (rendered as site errors):
            NotFoundError: it has none. SourceError.
        """
        place = self._cache.upstreams.resolve(Target(request.query.get("ns"), "any"))
        query = {"n": str(_PAGE)}
        if "last" in request.query:
            query["last"] = request.query["last"]
        names, is_last = await place.client.repositories(query)
        return _json(RepositoryPage(repositories=tuple(names), last=None if is_last or not names else names[-1]))

    async def tag(self, request: web.Request) -> web.Response:
        """``?ns=&repo=&tag=``: what the registry itself says that the tag means; nothing that is kept here counts.

        Raises (rendered as site errors):
            NotFoundError: it has no such tag. SourceError.
        """
        place, tag = self._place(request), _tag(request)
        head = await place.client.head_manifest(place.repository, tag)
        digest = head.digest or (await place.client.manifest(place.repository, tag)).digest
        return _json(TagNow(digest=digest))

    async def referrers(self, request: web.Request) -> web.Response:
        """``?ns=&repo=``: the registry's own list of what refers to a manifest, as an index that is kept here.

        Raises (rendered as site errors):
            NotFoundError: it has no such list of any manifest. UnacceptableError, SourceError, StorageError.
        """
        place, digest = self._place(request), Digest.parse(request.match_info["digest"])
        return _json(ReferrersNow(digest=await self._cache.keep_referrers(place, digest)))

    async def document(self, request: web.Request) -> web.Response:
        """``?ns=&repo=&kind=manifest|config``: its bytes, kept nowhere: of a plan, in which nothing moves.

        Raises (rendered as site errors):
            NotFoundError, SourceError, IntegrityError, UnacceptableError.
        """
        place, digest = self._place(request), Digest.parse(request.match_info["digest"])
        body = await self._cache.look(place, digest, request.query.get("kind") == "config", _CONFIG_LIMIT_BYTES)
        return web.Response(body=body, content_type="application/octet-stream")

    async def list(self, request: web.Request) -> web.Response:
        """Every tag that sync keeps here."""
        kept = await asyncio.to_thread(lambda: tuple(self._cache.synced.all()))
        return _json(KeptTags(tags=kept))

    async def put(self, request: web.Request) -> web.Response:
        """``PUT ?ns=&repo=&tag=`` with a ``SyncedTag``: set once all of it is here.

        Raises (rendered as site errors):
            PreconditionError: it is not. InputError, StorageError.
        """
        place, tag = self._place(request), _tag(request)
        try:
            meant = SyncedTag.model_validate_json(await request.read())
        except ValidationError as error:
            raise InputError(f"malformed synced tag {place}:{tag}: {error.errors()[0]['msg']}") from error
        await self._cache.set_synced(place, tag, meant)
        return _json(meant)

    async def drop(self, request: web.Request) -> web.Response:
        """``DELETE ?ns=&repo=&tag=``; 404: there was none."""
        place, tag = self._place(request), _tag(request)
        if not await asyncio.to_thread(self._cache.synced.drop, place.upstream, place.repository, tag):
            raise NotFoundError(f"{place}:{tag} is no synced tag")
        return web.Response(status=204)

    def _place(self, request: web.Request) -> UpstreamRepository:
        repository = request.query.get("repo", "")
        if not is_name(repository):
            raise InputError(f"invalid repo {repository[:200]!r}: expected a repository name")
        return self._cache.upstreams.resolve(Target(request.query.get("ns"), repository))


def _tag(request: web.Request) -> str:
    tag = request.query.get("tag", "")
    if not is_tag(tag):
        raise InputError(f"invalid tag {tag[:200]!r}")
    return tag


def _json(shape: BaseModel) -> web.Response:
    return web.json_response(body=shape.model_dump_json().encode())
