"""``DELETE /site/v1/tags``: what a tag or a whole repository meant is forgotten, by every proxy of the site."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from imagedist.distribution.backend import Target
from imagedist.errors import ImagedistError, InputError, SourceError
from imagedist.oci.reference import is_name, is_tag
from imagedist.oci.tls import Tls
from imagedist.site import Purged, Site
from registry_proxy.cache import SiteCache


class Purges:
    """
    Args:
        proxies: the other proxies of this site. Those that share this one's store need not be among them.
        token: the site token, as the others want it.
        tls: for https URLs, if the system's authorities are not enough.
    """

    def __init__(self, cache: SiteCache, proxies: Sequence[str], token: str | None, tls: Tls | None = None) -> None:
        self._cache = cache
        self._others = {url: Site([url], [], "proxy", token, tls=tls) for url in proxies}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_delete("/tags", self.purge)

    async def close(self) -> None:
        for other in self._others.values():
            await other.close()

    async def purge(self, request: web.Request) -> web.Response:
        """``?ns=&repo=&tag=``; without ``tag`` every tag of the repository; with ``here=1`` at this proxy only.

        Raises (rendered as site errors):
            InputError: a malformed repository or tag. NotFoundError: no such upstream. StorageError.
            SourceError: it was not done at every other proxy; names them.
        """
        query = request.query
        namespace, repository, tag = query.get("ns"), query.get("repo", ""), query.get("tag")
        if not is_name(repository):
            raise InputError(f"invalid repo {repository[:200]!r}: expected a repository name")
        if tag is not None and not is_tag(tag):
            raise InputError(f"invalid tag {tag[:200]!r}")
        place, count = await self._cache.purge(Target(namespace, repository), tag)
        others = {} if "here" in query else self._others

        async def tell(url: str, other: Site) -> int | str:
            try:
                return (await other.purge(place.upstream, place.repository, tag, here_only=True)).tags
            except ImagedistError as error:
                return f"{url}: {error}"

        answers = await asyncio.gather(*(tell(url, other) for url, other in others.items()))
        failures = [answer for answer in answers if isinstance(answer, str)]
        if failures:
            raise SourceError(f"purged here, but not at every proxy of the site ({'; '.join(failures)}); purge again")
        total = count + sum(answer for answer in answers if isinstance(answer, int))
        purged = Purged(
            upstream=place.upstream, repository=place.repository, tag=tag, tags=total, proxies=1 + len(others)
        )
        return web.json_response(body=purged.model_dump_json().encode())
