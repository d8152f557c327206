"""``/site/v1/pins``: pin a blob, or all that an image refers to; list pins with what they hold."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

from aiohttp import web

from imagedist.distribution.backend import Target
from imagedist.errors import InputError, NotFoundError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag
from imagedist.site_store import PinList, PinStatus
from registry_proxy.cache import SiteCache
from registry_proxy.keeping import Keeping
from registry_proxy.pins import Pin, Pins

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}\Z")
_REASON_LENGTH = 500


class _Subject(NamedTuple):
    """What a request pins. ``target`` None: a bare digest."""

    target: Target | None
    reference: str
    name: str
    upstream: str = ""
    repository: str = ""


class PinRoutes:
    def __init__(self, cache: SiteCache, pins: Pins, keeping: Keeping) -> None:
        self._cache = cache
        self._pins = pins
        self._keeping = keeping

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/pins", self.list)
        app.router.add_put("/pins", self.pin)
        app.router.add_delete("/pins", self.unpin)

    async def list(self, request: web.Request) -> web.Response:
        """``?owner=``: those of one owner."""
        owner = request.query.get("owner")
        pins = [pin for pin in await asyncio.to_thread(self._pins.all) if owner in (None, pin.owner)]
        return _json(PinList(pins=tuple(await asyncio.to_thread(lambda: [self._status(pin) for pin in pins]))))

    async def pin(self, request: web.Request) -> web.Response:
        """``PUT ?ns=&repo=&reference=&owner=&reason=``: a tag or a digest; a bare digest needs no repo.

        What a tag means is asked now; the pin does not follow it. Blobs that are not here stay once they come.

        Raises (rendered as site errors):
            InputError: malformed. NotFoundError, SourceError: as upstream answers. StorageError: it cannot be written.
        """
        subject, owner = self._subject(request), _owner(request)
        reason = request.query.get("reason", "")[:_REASON_LENGTH]
        if subject.target is None:
            digest = Digest.parse(subject.reference)
        else:
            digest = (await self._cache.manifest(subject.target, subject.reference)).digest
        pin = await asyncio.to_thread(
            lambda: self._pins.put(
                subject.name, digest, owner, reason, upstream=subject.upstream, repository=subject.repository
            )
        )
        return _json(await asyncio.to_thread(self._status, pin))

    async def unpin(self, request: web.Request) -> web.Response:
        """``DELETE ?ns=&repo=&reference=&owner=``, as it was pinned.

        Raises (rendered as site errors):
            NotFoundError: this owner has no such pin.
        """
        subject, owner = self._subject(request), _owner(request)
        pins = await asyncio.to_thread(self._pins.all)
        pin = next((pin for pin in pins if (pin.name, pin.owner) == (subject.name, owner)), None)
        if pin is None or not await asyncio.to_thread(self._pins.drop, subject.name, owner):
            raise NotFoundError(f"{owner} has no pin {subject.name}")
        return _json(await asyncio.to_thread(self._status, pin))

    def _subject(self, request: web.Request) -> _Subject:
        reference, repository = request.query.get("reference", ""), request.query.get("repo")
        is_digest = ":" in reference
        if is_digest:
            Digest.parse(reference)
        elif not is_tag(reference):
            raise InputError(f"invalid reference {reference[:200]!r}: expected a tag or a digest")
        if repository is None:
            if not is_digest:
                raise InputError(f"cannot pin tag {reference} without its repository: give repo")
            return _Subject(None, reference, reference)
        if not is_name(repository):
            raise InputError(f"invalid repo {repository[:200]!r}: expected a repository name")
        target = Target(request.query.get("ns"), repository)
        place = self._cache.upstreams.resolve(target)
        name = f"{place}{'@' if is_digest else ':'}{reference}"
        return _Subject(target, reference, name, place.upstream, place.repository)

    def _status(self, pin: Pin) -> PinStatus:
        sizes = [self._cache.size_here(digest) for digest in self._keeping.reached([pin.digest])]
        here = [size_bytes for size_bytes in sizes if size_bytes is not None]
        return PinStatus(
            name=pin.name,
            digest=str(pin.digest),
            owner=pin.owner,
            reason=pin.reason,
            created_at=pin.created_at,
            blobs=len(here),
            bytes=sum(here),
            missing=len(sizes) - len(here),
        )


def _owner(request: web.Request) -> str:
    owner = request.query.get("owner", "operator")
    if not _OWNER.match(owner):
        raise InputError(f"invalid owner {owner[:200]!r}: expected letters, digits and ._/:-, at most 128")
    return owner


def _json(shape: PinList | PinStatus) -> web.Response:
    return web.json_response(body=shape.model_dump_json().encode())
