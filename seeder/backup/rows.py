"""One backup's rows: what its tags are to mean, and what was done; nothing is lost when the process dies.

A page of the journal comes in with the number up to which it was read in one transaction; what was done is noted when
the registry has it. In between it may be done twice, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from imagedist.oci.digest import Digest
from seeder.backup.tables import BLOBS, TAGS
from seeder.database import Database
from seeder.sync.tables import CURSORS


class News(NamedTuple):
    """``digest``: what the tag is to mean there; None: nothing, if it was sent there."""

    name: str
    tag: str
    sequence: int
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Send:
    """A tag to be set, or deleted, at the backup."""

    name: str
    tag: str
    digest: Digest | None
    attempts: int
    has_failed: bool
    error: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


class Rows:
    """
    Args:
        backup: its name.
    """

    def __init__(self, database: Database, backup: str) -> None:
        self._database = database
        self._backup = backup
        self._ours = TAGS.c.backup == backup
        self._open = self._ours & (TAGS.c.digest != TAGS.c.done)

    async def cursor(self, journal: str) -> int:
        """Up to where our journal was taken in; 0: it is another one. Raises StorageError."""
        query = sa.select(CURSORS).where(CURSORS.c.site == self._backup)
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).first()
        return row.sequence if row is not None and row.journal == journal else 0

    async def take_in(self, journal: str, sequence: int, news: Sequence[News]) -> None:
        """What the journal told up to ``sequence``. Raises StorageError."""
        async with self._database.transaction() as connection:
            for each in news:
                this = self._ours & (TAGS.c.name == each.name) & (TAGS.c.tag == each.tag)
                values = {
                    "sequence": each.sequence,
                    "digest": str(each.digest or ""),
                    "attempts": 0,
                    "not_before": 0.0,
                    "has_failed": False,
                    "error": "",
                }
                changed = await connection.execute(sa.update(TAGS).where(this).values(values))
                if not changed.rowcount and each.digest is not None:
                    row = {"backup": self._backup, "name": each.name, "tag": each.tag, "done": "", **values}
                    await connection.execute(sa.insert(TAGS).values(row))
            await connection.execute(sa.delete(TAGS).where(self._ours & (TAGS.c.digest == "") & (TAGS.c.done == "")))
            cursor = {"site": self._backup, "journal": journal, "sequence": sequence}
            await self._database.upsert(connection, CURSORS, [cursor])

    async def of_repository(self, name: str) -> dict[str, Digest]:
        """What its tags are to mean there. Raises StorageError."""
        query = sa.select(TAGS).where(self._ours & (TAGS.c.name == name) & (TAGS.c.digest != ""))
        async with self._database.transaction() as connection:
            return {row.tag: Digest.parse(row.digest) for row in await connection.execute(query)}

    async def going(self, name: str) -> set[str]:
        """Those of its tags that are to go there. Raises StorageError."""
        query = sa.select(TAGS.c.tag).where(self._open & (TAGS.c.name == name) & (TAGS.c.digest == ""))
        async with self._database.transaction() as connection:
            return set((await connection.execute(query)).scalars())

    async def due(self, limit: int, under_way: Collection[tuple[str, str]]) -> list[Send]:
        """The oldest whose time has come. Raises StorageError."""
        async with self._database.transaction() as connection:
            is_due = TAGS.c.not_before <= await self._database.now(connection)
            where = self._open & ~TAGS.c.has_failed & is_due
            query = sa.select(TAGS).where(where).order_by(TAGS.c.sequence).limit(limit + len(under_way))
            rows = [row for row in await connection.execute(query) if (row.name, row.tag) not in under_way]
        return [_send(row) for row in rows[:limit]]

    async def next_due(self) -> float | None:
        """Seconds until the next one's time comes; None: there is none. Raises StorageError."""
        query = sa.select(sa.func.min(TAGS.c.not_before)).where(self._open & ~TAGS.c.has_failed)
        async with self._database.transaction() as connection:
            moment = (await connection.execute(query)).scalar_one()
            return None if moment is None else max(0.0, moment - await self._database.now(connection))

    async def shown(self, limit: int) -> list[Send]:
        """The oldest, failed or not. Raises StorageError."""
        query = sa.select(TAGS).where(self._open).order_by(TAGS.c.sequence).limit(limit)
        async with self._database.transaction() as connection:
            return [_send(row) for row in await connection.execute(query)]

    async def counts(self) -> tuple[int, int]:
        """How many wait or run, and how many have failed. Raises StorageError."""
        query = sa.select(TAGS.c.has_failed, sa.func.count()).where(self._open).group_by(TAGS.c.has_failed)
        async with self._database.transaction() as connection:
            found = {bool(has_failed): count for has_failed, count in await connection.execute(query)}
        return found.get(False, 0), found.get(True, 0)

    async def finish(self, send: Send) -> None:
        """The backup has it. What is wanted since stays to be done. Raises StorageError."""
        this = self._ours & (TAGS.c.name == send.name) & (TAGS.c.tag == send.tag)
        async with self._database.transaction() as connection:
            values = {"done": str(send.digest or ""), "error": "", "attempts": 0}
            await connection.execute(sa.update(TAGS).where(this).values(values))
            await connection.execute(sa.delete(TAGS).where(this & (TAGS.c.digest == "") & (TAGS.c.done == "")))

    async def fail(self, send: Send, error: str, again_in_seconds: float | None) -> None:
        """It did not work: again later, or not by itself any more. Raises StorageError."""
        values = {
            "attempts": send.attempts + 1,
            "error": error[:1000],
            "has_failed": again_in_seconds is None,
        }
        this = self._ours & (TAGS.c.name == send.name) & (TAGS.c.tag == send.tag)
        this &= TAGS.c.digest == str(send.digest or "")
        async with self._database.transaction() as connection:
            not_before = await self._database.now(connection) + (again_in_seconds or 0.0)
            await connection.execute(sa.update(TAGS).where(this).values({**values, "not_before": not_before}))

    async def retry(self) -> None:
        """Everything is due now. Raises StorageError."""
        async with self._database.transaction() as connection:
            values = {"has_failed": False, "attempts": 0, "not_before": 0.0}
            await connection.execute(sa.update(TAGS).where(self._open).values(values))

    async def done(self) -> list[tuple[str, str, Digest]]:
        """What was sent: name, tag, what it was left as. Raises StorageError."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(sa.select(TAGS).where(self._ours & (TAGS.c.done != "")))
            return [(row.name, row.tag, Digest.parse(row.done)) for row in rows]

    async def undo(self, name: str, tag: str, digest: Digest) -> None:
        """The backup has it no more. Raises StorageError."""
        this = self._ours & (TAGS.c.name == name) & (TAGS.c.tag == tag) & (TAGS.c.done == str(digest))
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(TAGS).where(this).values(done="", has_failed=False, not_before=0.0))

    async def blob(self, digest: Digest) -> tuple[str, str] | None:
        """The repository that a blob was sent to, and where its upload goes on. Raises StorageError."""
        query = sa.select(BLOBS).where((BLOBS.c.backup == self._backup) & (BLOBS.c.digest == str(digest)))
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).first()
        return (row.repository, row.upload) if row is not None else None

    async def put_blob(self, digest: Digest, repository: str, upload: str = "") -> None:
        """Raises StorageError."""
        row = {"backup": self._backup, "digest": str(digest), "repository": repository, "upload": upload}
        async with self._database.transaction() as connection:
            await self._database.upsert(connection, BLOBS, [row])


def _send(row: sa.Row[tuple[object, ...]]) -> Send:
    digest = Digest.parse(row.digest) if row.digest else None
    return Send(row.name, row.tag, digest, row.attempts, row.has_failed, row.error)
