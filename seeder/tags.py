"""The tag journal: which digest each of the site's tags means, with a sequence a follower can resume from.

One row per tag: a change takes the row away and appends it with the next number, so the journal grows with the tags
and not with their history, and a follower that asks for what is newer than N misses nothing it still needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name, is_tag
from seeder.database import Database
from seeder.moves import Meaning, Terms, moved

_LOOK_SECONDS = 0.5

SCHEMA = sa.MetaData()
_JOURNAL = sa.Table(
    "tag_journal",
    SCHEMA,
    # SQLite's rowid is 64 bits wide only under this very name of the type; AUTOINCREMENT never reuses a number.
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("tag", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(160), nullable=False),  # empty: deleted
    sa.UniqueConstraint("name", "tag"),
    sqlite_autoincrement=True,
)
_MOVES = sa.Table(
    "tag_moves",
    SCHEMA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("tag", sa.String(128), primary_key=True),
    sa.Column("move", sa.Text, nullable=False),
)
_IDENTITY = sa.Table(
    "journal_identity",
    SCHEMA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("journal", sa.String(64), nullable=False),
    sa.Column("born_at", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class TagRecord:
    """``name``: the registry as the site's proxy calls it, a slash, the repository."""

    sequence: int
    name: str
    tag: str
    meaning: Meaning

    @property
    def digest(self) -> Digest | None:
        return self.meaning.digest


class Identity(NamedTuple):
    """Which journal this is: one that was made anew has other numbers. ``born_at``: milliseconds since the epoch."""

    journal: str
    born_at: int


class TagJournal:
    """The journal in its database, whose tables ``SCHEMA`` names.

    Args:
        site: whose journal it is.
        clock: seconds since the epoch. Injected by tests.
    """

    def __init__(self, database: Database, site: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self.site = site
        self._clock = clock
        self._identity: Identity | None = None
        self._changed = asyncio.Event()

    async def identity(self) -> Identity:
        """Made with the journal. Raises StorageError."""
        if self._identity is None:
            async with self._database.transaction() as connection:
                await self._database.lock(connection, "journal")
                row = (await connection.execute(sa.select(_IDENTITY))).first()
                if row is None:
                    values = {"number": 1, "journal": uuid.uuid4().hex, "born_at": int(self._clock() * 1000)}
                    await connection.execute(sa.insert(_IDENTITY).values(values))
                    row = (await connection.execute(sa.select(_IDENTITY))).one()
            self._identity = Identity(row.journal, row.born_at)
        return self._identity

    async def put(self, name: str, tag: str, digest: Digest) -> TagRecord:
        """Records what a tag means now, as an operator says; the same digest again changes nothing.

        Raises:
            InputError: not a repository name or not a tag. StorageError.
        """
        if not is_name(name) or not is_tag(tag):
            raise InputError(f"invalid tag {name}:{tag}: expected a repository name and a tag")
        born_at = (await self.identity()).born_at
        async with self.changing() as connection:
            held = await self.get(connection, name, tag)
            if held is not None and held.digest == digest:
                return held
            before = held.meaning if held is not None else Meaning(None)
            versions = moved(before.versions, self.site, born_at)
            meaning = replace(before, digest=digest, origin=self.site, versions=versions)
            return await self.append(connection, name, tag, meaning)

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction in which tags may be appended; who waits for them is told at its end. Raises StorageError."""
        async with self._database.transaction() as connection:
            # A sequence is taken within a transaction and seen at its end: with two at a time, of whichever seeders, a
            # follower could read the later number first and never ask for the earlier one.
            await self._database.lock(connection, "journal")
            yield connection
        self._changed.set()
        self._changed = asyncio.Event()

    async def get(self, connection: AsyncConnection, name: str, tag: str) -> TagRecord | None:
        rows = await self._read(connection, (_JOURNAL.c.name == name) & (_JOURNAL.c.tag == tag), 1)
        return rows[0] if rows else None

    async def get_some(self, connection: AsyncConnection, keys: Sequence[tuple[str, str]]) -> list[TagRecord]:
        """Those of these names and tags that there are, and perhaps others of the same names."""
        names, tags = {name for name, _ in keys}, {tag for _, tag in keys}
        return await self._read(connection, _JOURNAL.c.name.in_(names) & _JOURNAL.c.tag.in_(tags), None)

    async def find(self, name: str, tag: str) -> TagRecord | None:
        """What a tag means; None: it was never set. Raises StorageError."""
        async with self._database.transaction() as connection:
            return await self.get(connection, name, tag)

    async def of_repository(self, name: str) -> list[TagRecord]:
        """All of a repository's. Raises StorageError."""
        async with self._database.transaction() as connection:
            return await self._read(connection, _JOURNAL.c.name == name, None)

    async def append(self, connection: AsyncConnection, name: str, tag: str, meaning: Meaning) -> TagRecord:
        """Within ``changing``: the tag's only record from now on."""
        for table in (_JOURNAL, _MOVES):
            await connection.execute(sa.delete(table).where((table.c.name == name) & (table.c.tag == tag)))
        row = {"name": name, "tag": tag, "digest": str(meaning.digest or "")}
        inserted = await connection.execute(sa.insert(_JOURNAL).values(row).returning(_JOURNAL.c.sequence))
        await connection.execute(sa.insert(_MOVES).values(name=name, tag=tag, move=dump_move(meaning)))
        return TagRecord(inserted.scalar_one(), name, tag, meaning)

    async def newer_than(self, sequence: int, limit: int) -> list[TagRecord]:
        """The tags recorded after ``sequence``, oldest first, at most ``limit``. Raises StorageError."""
        async with self._database.transaction() as connection:
            return await self._read(connection, _JOURNAL.c.sequence > sequence, limit)

    async def wait_newer(self, sequence: int, limit: int, seconds: float) -> list[TagRecord]:
        """As ``newer_than``; while there are none it waits for one. Raises StorageError."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            changed = self._changed
            records = await self.newer_than(sequence, limit)
            left_seconds = deadline - asyncio.get_running_loop().time()
            if records or left_seconds <= 0:
                return records
            with contextlib.suppress(TimeoutError):
                # Another seeder's changes are told by nobody.
                async with asyncio.timeout(
                    min(left_seconds, _LOOK_SECONDS) if self._database.is_shared else left_seconds
                ):
                    await changed.wait()

    async def last_sequence(self) -> int:
        """Raises StorageError."""
        async with self._database.transaction() as connection:
            return (await connection.execute(sa.select(sa.func.max(_JOURNAL.c.sequence)))).scalar_one() or 0

    @staticmethod
    async def _read(connection: AsyncConnection, where: sa.ColumnElement[bool], limit: int | None) -> list[TagRecord]:
        both = (_MOVES.c.name == _JOURNAL.c.name) & (_MOVES.c.tag == _JOURNAL.c.tag)
        query = sa.select(_JOURNAL, _MOVES.c.move).outerjoin(_MOVES, both).where(where)
        rows = (await connection.execute(query.order_by(_JOURNAL.c.sequence).limit(limit))).all()
        return [TagRecord(row.sequence, row.name, row.tag, load_meaning(row.digest, row.move)) for row in rows]


def dump_move(meaning: Meaning) -> str:
    """All but the digest, for a column of its own."""
    terms = {site: each.model_dump(mode="json") for site, each in meaning.terms.items()}
    return json.dumps({"origin": meaning.origin, "versions": dict(meaning.versions), "terms": terms})


def load_meaning(digest: str, move: str | None) -> Meaning:
    """The two columns again."""
    content: dict[str, Any] = json.loads(move) if move else {"origin": "", "versions": {}, "terms": {}}
    terms = {site: Terms.model_validate(each) for site, each in content["terms"].items()}
    return Meaning(Digest.parse(digest) if digest else None, content["origin"], content["versions"], terms)
