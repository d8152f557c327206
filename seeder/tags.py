"""The tag journal: which digest each of the site's tags means, with a sequence a follower can resume from.

One row per tag: a change takes the row away and appends it with the next number, so the journal grows with the tags
and not with their history, and a follower that asks for what is newer than N misses nothing it still needs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import sqlalchemy as sa
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag
from seeder.database import Database

MAX_PAGE = 1000

SCHEMA = sa.MetaData()
_JOURNAL = sa.Table(
    "tag_journal",
    SCHEMA,
    # SQLite's rowid is 64 bits wide only under this very name of the type; AUTOINCREMENT never reuses a number.
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("tag", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(160), nullable=False),
    sa.UniqueConstraint("name", "tag"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class TagRecord:
    sequence: int
    name: str
    tag: str
    digest: Digest


class TagJournal:
    """The journal in its database, whose tables ``SCHEMA`` names; one seeder owns it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A sequence is taken when a transaction begins and seen when it ends: with two at a time, a follower could
        # read the later number first and never ask for the earlier one.
        self._writing = asyncio.Lock()

    async def put(self, name: str, tag: str, digest: Digest) -> TagRecord:
        """Records what a tag means now; the same digest again changes nothing.

        Raises:
            InputError: not a repository name or not a tag. StorageError.
        """
        if not is_name(name) or not is_tag(tag):
            raise InputError(f"invalid tag {name}:{tag}: expected a repository name and a tag")
        this_tag = (_JOURNAL.c.name == name) & (_JOURNAL.c.tag == tag)
        async with self._writing, self._database.transaction() as connection:
            present = (await connection.execute(sa.select(_JOURNAL).where(this_tag))).first()
            if present and present.digest == str(digest):
                return TagRecord(present.sequence, name, tag, digest)
            await connection.execute(sa.delete(_JOURNAL).where(this_tag))
            inserted = await connection.execute(
                sa.insert(_JOURNAL).values(name=name, tag=tag, digest=str(digest)).returning(_JOURNAL.c.sequence)
            )
            return TagRecord(inserted.scalar_one(), name, tag, digest)

    async def newer_than(self, sequence: int, limit: int) -> list[TagRecord]:
        """The tags recorded after ``sequence``, oldest first, at most ``limit``. Raises StorageError."""
        query = sa.select(_JOURNAL).where(_JOURNAL.c.sequence > sequence).order_by(_JOURNAL.c.sequence).limit(limit)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [TagRecord(row.sequence, row.name, row.tag, Digest.parse(row.digest)) for row in rows]


class _Change(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: Digest


JOURNAL_KEY = web.AppKey("tag_journal", TagJournal)


def add_tag_routes(app: web.Application) -> None:
    """Adds ``GET /site/v1/tags?since=SEQUENCE&limit=N`` and ``PUT /site/v1/tags/{name}:{tag}``, for ``JOURNAL_KEY``."""

    async def put(request: web.Request) -> web.Response:
        try:
            change = _Change.model_validate_json(await request.read())
        except ValidationError as error:
            raise InputError('bad tag: expected {"digest": "sha256:…"}') from error
        journal = request.app[JOURNAL_KEY]
        record = await journal.put(request.match_info["name"], request.match_info["tag"], change.digest)
        return web.json_response(_describe(record))

    async def newer(request: web.Request) -> web.Response:
        since, limit = (_number(request, name, default) for name, default in (("since", 0), ("limit", MAX_PAGE)))
        records = await request.app[JOURNAL_KEY].newer_than(since, min(limit, MAX_PAGE))
        sequence = records[-1].sequence if records else since
        return web.json_response({"format": 1, "sequence": sequence, "tags": [_describe(each) for each in records]})

    app.add_routes([web.get("/site/v1/tags", newer), web.put(r"/site/v1/tags/{name:.+}:{tag:[^:/]+}", put)])


def _describe(record: TagRecord) -> dict[str, object]:
    return {"sequence": record.sequence, "name": record.name, "tag": record.tag, "digest": str(record.digest)}


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InputError(f"bad {name}: expected a number, got {text[:40]!r}")
    return int(text)
