"""What sync knows and has to do, in the seeder's database: nothing of it is lost or half done when the process dies.

A change comes in with what was learned by it in one transaction, and goes out with the journal's record in another; in
between it may be worked on twice, which changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from imagedist.metrics import SYNC_CONFLICTS
from imagedist.oci.digest import Digest
from seeder.database import Database
from seeder.moves import Meaning, Terms, moved, relation, settle
from seeder.sync.tables import CONFLICTS, CURSORS, SEEN, TASKS
from seeder.tags import TagJournal, TagRecord, dump_move, load_meaning

_PAGE = 1000
MAX_CONFLICTS = 200
"""Reported, the latest ones."""


class Seen(NamedTuple):
    """What the registry said of a tag, and the terms that rules gave it."""

    digest: Digest
    terms: Mapping[str, Terms]


@dataclass(frozen=True, slots=True)
class Task:
    """A tag to be set, or deleted, at this site. ``source``: the site that told it; empty: this one's registry."""

    number: int
    name: str
    tag: str
    meaning: Meaning
    source: str
    attempts: int
    not_before: float
    has_failed: bool
    error: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


class Conflict(NamedTuple):
    """Two sites moved a tag without knowing of each other. ``at``: when this site learned of it."""

    at: float
    name: str
    tag: str
    kept: str
    kept_of: str
    lost: str
    lost_of: str


class Ledger:
    """
    Args:
        clock: seconds since the epoch. Injected by tests.
    """

    def __init__(self, database: Database, journal: TagJournal, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._journal = journal
        self._clock = clock

    @property
    def site(self) -> str:
        return self._journal.site

    async def seen(self, name: str) -> dict[str, Seen]:
        """What the registry said last of a repository's covered tags. Raises StorageError."""
        async with self._database.transaction() as connection:
            return await _seen(connection, name)

    async def seen_names(self, upstream: str) -> list[str]:
        """The repositories of a registry of which something was seen. Raises StorageError."""
        query = sa.select(SEEN.c.name).where(SEEN.c.name.startswith(f"{upstream}/", autoescape=True)).distinct()
        async with self._database.transaction() as connection:
            return [row.name for row in await connection.execute(query)]

    async def note_scan(self, name: str, covered: Mapping[str, Seen], judged: Collection[str] | None) -> int:
        """What the registry says of a repository now; what has changed is queued.

        Args:
            covered: every tag that a rule covers. judged: the tags that were asked about; None: all there are.

        Returns:
            How many tags have moved, appeared or gone.

        Raises:
            StorageError.
        """
        born_at = (await self._journal.identity()).born_at
        count = 0
        async with self._journal.changing() as connection:
            before = await _seen(connection, name)
            for tag, now in covered.items():
                if before.get(tag) != now:
                    await _put_seen(connection, name, tag, now)
                    count += await self._note_move(connection, name, tag, now, born_at, is_first=tag not in before)
            for tag in before.keys() - covered.keys():
                if judged is None or tag in judged:
                    await _drop_seen(connection, name, tag)
                    terms = {site: each for site, each in before[tag].terms.items() if each.delete}
                    if terms:
                        held = await self._wanted(connection, name, tag)
                        versions = moved(held.versions if held else {}, self.site, born_at)
                        await self._queue(connection, name, tag, Meaning(None, self.site, versions, terms), "")
                        count += 1
        return count

    async def cursor(self, site: str, journal: str) -> int:
        """The last number of that journal that was taken in; 0: none, or it is another journal. Raises StorageError."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(sa.select(CURSORS).where(CURSORS.c.site == site))).first()
        return row.sequence if row is not None and journal in ("", row.journal) else 0

    async def note_page(self, site: str, journal: str, sequence: int, records: Sequence[TagRecord]) -> int:
        """What another site's journal told up to ``sequence``; what is news here is queued.

        Returns:
            How many tags that is.

        Raises:
            StorageError.
        """
        count = 0
        async with self._journal.changing() as connection:
            for record in records:
                count += await self._note(connection, site, record)
            await connection.execute(sa.delete(CURSORS).where(CURSORS.c.site == site))
            values = {"site": site, "journal": journal, "sequence": sequence}
            await connection.execute(sa.insert(CURSORS).values(values))
        return count

    async def judge(self, record: TagRecord) -> Meaning | None:
        """What a record of another site would have done here; None: nothing. Changes nothing. Raises StorageError."""
        async with self._database.transaction() as connection:
            held = await self._wanted(connection, record.name, record.tag)
        told = self._for_us(held, record.meaning)
        return settle(held, told).meaning if told is not None else None

    async def journal_tags(self) -> list[TagRecord]:
        """What every tag means at this site. Raises StorageError."""
        found: list[TagRecord] = []
        while page := await self._journal.newer_than(found[-1].sequence if found else 0, _PAGE):
            found += page
        return found

    async def due(self, limit: int, under_way: Collection[int]) -> list[Task]:
        """The oldest tasks whose time has come. Raises StorageError."""
        query = (
            sa.select(TASKS)
            .where(~TASKS.c.has_failed & (TASKS.c.not_before <= self._clock()) & TASKS.c.number.not_in(under_way))
            .order_by(TASKS.c.number)
            .limit(limit)
        )
        async with self._database.transaction() as connection:
            return [_task(row) for row in await connection.execute(query)]

    async def next_due(self) -> float | None:
        """Seconds until the next task's time comes; None: there is none. Raises StorageError."""
        query = sa.select(sa.func.min(TASKS.c.not_before)).where(~TASKS.c.has_failed)
        async with self._database.transaction() as connection:
            moment = (await connection.execute(query)).scalar_one()
        return None if moment is None else max(0.0, moment - self._clock())

    async def tasks(self, limit: int) -> list[Task]:
        """The oldest ones, failed or not. Raises StorageError."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(sa.select(TASKS).order_by(TASKS.c.number).limit(limit))
            return [_task(row) for row in rows]

    async def counts(self) -> tuple[int, int]:
        """How many tasks wait or run, and how many have failed. Raises StorageError."""
        query = sa.select(TASKS.c.has_failed, sa.func.count()).group_by(TASKS.c.has_failed)
        async with self._database.transaction() as connection:
            found = {bool(has_failed): count for has_failed, count in await connection.execute(query)}
        return found.get(False, 0), found.get(True, 0)

    async def finish(self, task: Task) -> bool:
        """The tag is set: the journal says so from now on. False: something else is wanted meanwhile.

        Raises:
            StorageError.
        """
        async with self._journal.changing() as connection:
            gone = await connection.execute(sa.delete(TASKS).where(TASKS.c.number == task.number))
            if not gone.rowcount:
                return False
            await self._journal.append(connection, task.name, task.tag, task.meaning)
        return True

    async def wants(self, task: Task) -> bool:
        """Whether nothing else is wanted of its tag meanwhile. Raises StorageError."""
        async with self._database.transaction() as connection:
            found = await connection.execute(sa.select(TASKS.c.number).where(TASKS.c.number == task.number))
            return found.first() is not None

    async def fail(self, task: Task, error: str, again_in_seconds: float | None) -> None:
        """It did not work: again later, or not by itself any more. Raises StorageError."""
        values = {
            "attempts": task.attempts + 1,
            "error": error[:1000],
            "has_failed": again_in_seconds is None,
            "not_before": self._clock() + (again_in_seconds or 0.0),
        }
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(TASKS).where(TASKS.c.number == task.number).values(values))

    async def retry(self) -> None:
        """Every task is due now, those that have failed as well. Raises StorageError."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(TASKS).values(has_failed=False, attempts=0, not_before=0.0))

    async def conflicts(self) -> list[Conflict]:
        """The latest first. Raises StorageError."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(sa.select(CONFLICTS).order_by(CONFLICTS.c.number.desc()))
            return [Conflict(*tuple(row)[1:]) for row in rows]

    async def _note(self, connection: AsyncConnection, site: str, record: TagRecord) -> bool:
        held = await self._wanted(connection, record.name, record.tag)
        told = self._for_us(held, record.meaning)
        return told is not None and await self._settle(connection, record.name, record.tag, held, told, site)

    async def _note_move(
        self, connection: AsyncConnection, name: str, tag: str, now: Seen, born_at: int, *, is_first: bool
    ) -> bool:
        """What our registry says anew. Of a tag that it had never told nobody knows whether it is older than what
        another site has told of that tag: that is a conflict."""
        held = await self._wanted(connection, name, tag)
        versions = moved(held.versions if held else {}, self.site, born_at)
        if is_first and held is not None and held.origin != self.site:
            versions = {self.site: versions[self.site]}
        told = Meaning(now.digest, self.site, versions, now.terms)
        return await self._settle(connection, name, tag, held, told, "")

    async def _settle(
        self, connection: AsyncConnection, name: str, tag: str, held: Meaning | None, told: Meaning, source: str
    ) -> bool:
        """Queues what the tag means now that this was told. False: what is held stays."""
        settled = settle(held, told)
        if settled.meaning is None:
            return False
        if settled.lost is not None:
            await self._report(connection, name, tag, settled.meaning, settled.lost)
        await self._queue(connection, name, tag, settled.meaning, source)
        return True

    def _for_us(self, held: Meaning | None, told: Meaning) -> Meaning | None:
        """What a site tells as it concerns this one: a tag that we are not to have any more is one that goes, if its
        rule said so."""
        if self.site in told.terms:
            return told if held is not None or told.digest is not None else None
        ours = held.terms.get(self.site) if held is not None and held.origin != self.site else None
        if held is None or ours is None or not ours.delete or held.digest is None:
            return None
        is_newer = relation(told.versions, held.versions) == "newer"
        return replace(told, digest=None, terms={**told.terms, self.site: ours}) if is_newer else None

    async def _wanted(self, connection: AsyncConnection, name: str, tag: str) -> Meaning | None:
        """What the tag means here when the queue is done."""
        this = (TASKS.c.name == name) & (TASKS.c.tag == tag)
        row = (await connection.execute(sa.select(TASKS).where(this))).first()
        if row is not None:
            return load_meaning(row.digest, row.move)
        record = await self._journal.get(connection, name, tag)
        return record.meaning if record is not None else None

    async def _queue(self, connection: AsyncConnection, name: str, tag: str, wanted: Meaning, source: str) -> None:
        await connection.execute(sa.delete(TASKS).where((TASKS.c.name == name) & (TASKS.c.tag == tag)))
        row = {"name": name, "tag": tag, "digest": str(wanted.digest or ""), "move": dump_move(wanted)}
        await connection.execute(sa.insert(TASKS).values(**row, source=source))

    async def _report(self, connection: AsyncConnection, name: str, tag: str, kept: Meaning, lost: Meaning) -> None:
        SYNC_CONFLICTS.inc()
        row = {
            "at": self._clock(),
            "name": name,
            "tag": tag,
            "kept": str(kept.digest or "deleted"),
            "kept_of": kept.origin,
            "lost": str(lost.digest or "deleted"),
            "lost_of": lost.origin,
        }
        number = (await connection.execute(sa.insert(CONFLICTS).values(row).returning(CONFLICTS.c.number))).scalar_one()
        await connection.execute(sa.delete(CONFLICTS).where(CONFLICTS.c.number <= number - MAX_CONFLICTS))


def _task(row: sa.Row[tuple[object, ...]]) -> Task:
    return Task(
        number=row.number,
        name=row.name,
        tag=row.tag,
        meaning=load_meaning(row.digest, row.move),
        source=row.source,
        attempts=row.attempts,
        not_before=row.not_before,
        has_failed=row.has_failed,
        error=row.error,
    )


async def _seen(connection: AsyncConnection, name: str) -> dict[str, Seen]:
    rows = await connection.execute(sa.select(SEEN).where(SEEN.c.name == name))
    return {row.tag: Seen(Digest.parse(row.digest), _load_terms(row.terms)) for row in rows}


async def _put_seen(connection: AsyncConnection, name: str, tag: str, seen: Seen) -> None:
    await _drop_seen(connection, name, tag)
    terms = json.dumps({site: each.model_dump(mode="json") for site, each in sorted(seen.terms.items())})
    await connection.execute(sa.insert(SEEN).values(name=name, tag=tag, digest=str(seen.digest), terms=terms))


async def _drop_seen(connection: AsyncConnection, name: str, tag: str) -> None:
    await connection.execute(sa.delete(SEEN).where((SEEN.c.name == name) & (SEEN.c.tag == tag)))


def _load_terms(text: str) -> dict[str, Terms]:
    return {site: Terms.model_validate(each) for site, each in json.loads(text).items()}
