"""``GET /site/v1/tags``: the journal as other sites follow it, by long poll; ``PUT`` is an operator's own entry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from imagedist.service import wait_unless_stopping
from seeder.moves import Meaning, Terms
from seeder.tags import TagJournal, TagRecord

_LOG = logging.getLogger(__name__)

MAX_PAGE = 1000
LONGEST_WAIT_SECONDS = 60
_MAX_WAITING = 256
"""Followers are sites: who comes beside so many is answered at once."""
_MAX_SITES = 64

JOURNAL_KEY = web.AppKey("tag_journal", TagJournal)


class _Change(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: Digest


class TagEntry(BaseModel):
    """One record on the wire. ``digest``: null when the tag was deleted."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sequence: int
    name: str = Field(max_length=255)
    tag: str = Field(max_length=128)
    digest: Digest | None
    origin: str = ""
    versions: Mapping[str, int] = Field(default={}, max_length=_MAX_SITES)
    terms: Mapping[str, Terms] = Field(default={}, max_length=_MAX_SITES)

    @classmethod
    def of(cls, record: TagRecord) -> TagEntry:
        meaning = record.meaning
        return cls(
            sequence=record.sequence,
            name=record.name,
            tag=record.tag,
            digest=meaning.digest,
            origin=meaning.origin,
            versions=meaning.versions,
            terms=meaning.terms,
        )

    def meaning(self) -> Meaning:
        return Meaning(self.digest, self.origin, self.versions, self.terms)


class JournalPage(BaseModel):
    """``GET /site/v1/tags?since=SEQUENCE&limit=N&wait=SECONDS&journal=WHOSE``.

    Attributes:
        journal: which one: another means that its numbers begin anew. sequence: to be given as ``since`` next time.
        site: whose; a version that does not say so does not say how tags moved either.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    site: str = ""
    journal: str = ""
    sequence: int
    tags: tuple[TagEntry, ...] = Field(max_length=MAX_PAGE)


def add_tag_routes(app: web.Application) -> None:
    """Adds ``GET /site/v1/tags`` and ``PUT /site/v1/tags/{name}:{tag}``, for ``JOURNAL_KEY``."""
    waiting = 0
    is_set_back = False

    async def put(request: web.Request) -> web.Response:
        try:
            change = _Change.model_validate_json(await request.read())
        except ValidationError as error:
            raise InputError('bad tag: expected {"digest": "sha256:…"}') from error
        journal = request.app[JOURNAL_KEY]
        record = await journal.put(request.match_info["name"], request.match_info["tag"], change.digest)
        return web.json_response(body=TagEntry.of(record).model_dump_json().encode())

    async def newer(request: web.Request) -> web.Response:
        nonlocal waiting, is_set_back
        since, limit = (_number(request, name, default) for name, default in (("since", 0), ("limit", MAX_PAGE)))
        wait_seconds = min(_number(request, "wait", 0), LONGEST_WAIT_SECONDS)
        journal, limit = request.app[JOURNAL_KEY], min(limit, MAX_PAGE)
        records = await journal.newer_than(since, limit)
        identity = (await journal.identity()).journal
        is_known = request.query.get("journal", "") in ("", identity)  # else its number means nothing here
        if not records and request.query.get("journal") == identity and not is_set_back:
            is_set_back = since > await journal.last_sequence()
            if is_set_back:
                _LOG.error(
                    "%s has read this site's journal up to a number that it has not: the database was given back "
                    "from a copy, and other sites will ignore moves; see docs/database.md, *Giving one back*",
                    request.headers.get("X-Imagedist-Node", "somebody")[:100],
                )
        if not records and wait_seconds and is_known and waiting < _MAX_WAITING:
            coming = asyncio.create_task(journal.wait_newer(since, limit, wait_seconds))
            waiting += 1
            try:
                await wait_unless_stopping(request, coming, wait_seconds)
                records = coming.result() if coming.done() else []
            finally:
                waiting -= 1
                coming.cancel()
        page = JournalPage(
            site=journal.site,
            journal=identity,
            sequence=records[-1].sequence if records else since,
            tags=tuple(map(TagEntry.of, records)),
        )
        return web.json_response(body=page.model_dump_json().encode())

    app.add_routes([web.get("/site/v1/tags", newer), web.put(r"/site/v1/tags/{name:.+}:{tag:[^:/]+}", put)])


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InputError(f"bad {name}: expected a number, got {text[:40]!r}")
    return int(text)
