"""What sync knows and has to do, in the seeder's database: nothing of it is lost or half done when the process dies.

A change comes in with what was learned by it in one transaction, and goes out with the journal's record in another; in
between it may be worked on twice, which changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
HOLD_SECONDS = 15.0
MAX_CONFLICTS = 200
"""Reported, the latest ones."""


_News = tuple[str, str, Callable[[Meaning | None], Meaning | None]]
"""Name, tag, and what is told of it, given what is held; None: nothing."""


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
        hold_seconds: how long a task of a seeder that died is left to it.
        clock: seconds since the epoch. None: the database's, which all who share the queue see.
    """

    def __init__(
        self,
        database: Database,
        journal: TagJournal,
        *,
        hold_seconds: float = HOLD_SECONDS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._database = database
        self._journal = journal
        self.hold_seconds = hold_seconds
        self._clock = clock

    @property
    def is_shared(self) -> bool:
        """Whether other seeders work off the same queue."""
        return self._database.is_shared

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

    async def note_scan(
        self,
        name: str,
        covered: Mapping[str, Seen],
        judged: Collection[str] | None,
        require: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> int:
        """What the registry says of a repository now; what has changed is queued.

        Args:
            covered: every tag that a rule covers. judged: the tags that were asked about; None: all there are.
            require: what must still hold, or raises: nobody else has looked meanwhile.

        Returns:
            How many tags have moved, appeared or gone.

        Raises:
            StorageError.
        """
        born_at = (await self._journal.identity()).born_at
        async with self._journal.changing() as connection:
            if require is not None:
                await require(connection)
            before = await _seen(connection, name)
            changed = {tag: now for tag, now in covered.items() if before.get(tag) != now}
            gone = [tag for tag in before.keys() - covered.keys() if judged is None or tag in judged]
            await _put_seen(connection, name, changed, gone)
            news: list[_News] = [
                (name, tag, partial(self._moved, now, born_at, is_first=tag not in before))
                for tag, now in changed.items()
            ]
            for tag in gone:
                terms = {site: each for site, each in before[tag].terms.items() if each.delete}
                if terms:
                    news.append((name, tag, partial(self._deleted, terms, born_at)))
            return await self._take_in(connection, news, "")

    async def cursor(self, site: str, journal: str) -> int:
        """The last number of that journal that was taken in; 0: none, or it is another journal. Raises StorageError."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(sa.select(CURSORS).where(CURSORS.c.site == site))).first()
        return row.sequence if row is not None and journal in ("", row.journal) else 0

    async def followed(self, site: str) -> tuple[str, int]:
        """Which journal of the site was read, and up to which number. Raises StorageError."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(sa.select(CURSORS).where(CURSORS.c.site == site))).first()
        return (row.journal, row.sequence) if row is not None else ("", 0)

    async def note_page(self, site: str, journal: str, sequence: int, records: Sequence[TagRecord]) -> int:
        """What another site's journal told up to ``sequence``; what is news here is queued.

        Returns:
            How many tags that is.

        Raises:
            StorageError.
        """
        async with self._journal.changing() as connection:
            news: list[_News] = [(each.name, each.tag, partial(self._for_us, told=each.meaning)) for each in records]
            count = await self._take_in(connection, news, site)
            await connection.execute(sa.delete(CURSORS).where(CURSORS.c.site == site))
            values = {"site": site, "journal": journal, "sequence": sequence}
            await connection.execute(sa.insert(CURSORS).values(values))
        return count

    async def restore(self, source: str, wanted: Mapping[tuple[str, str], Meaning]) -> None:
        """Queues tags to be set here whatever is held, and has other sites' journals read again from their beginning:
        what they told of moves that are newer is not known any more.

        Raises:
            StorageError.
        """
        keys = list(wanted)
        async with self._journal.changing() as connection:
            for at in range(0, len(keys), _PAGE):
                await _queue(connection, {key: wanted[key] for key in keys[at : at + _PAGE]}, source)
            await connection.execute(sa.delete(CURSORS))

    async def from_source(self, source: str) -> list[Task]:
        """The tasks that a site told, or that are restored from it. Raises StorageError."""
        query = sa.select(TASKS).where(TASKS.c.source == source).order_by(TASKS.c.number)
        async with self._database.transaction() as connection:
            return [_task(row) for row in await connection.execute(query)]

    async def judge(self, record: TagRecord) -> Meaning | None:
        """What a record of another site would have done here; None: nothing. Changes nothing. Raises StorageError."""
        async with self._database.transaction() as connection:
            held = (await self._wanted(connection, [(record.name, record.tag)])).get((record.name, record.tag))
        told = self._for_us(held, record.meaning)
        return settle(held, told).meaning if told is not None else None

    async def journal_tags(self) -> list[TagRecord]:
        """What every tag means at this site. Raises StorageError."""
        found: list[TagRecord] = []
        while page := await self._journal.newer_than(found[-1].sequence if found else 0, _PAGE):
            found += page
        return found

    async def due(self, limit: int, under_way: Collection[str]) -> list[Task]:
        """The oldest tasks whose time has come, which are this seeder's from now on; see ``hold``.

        Args:
            under_way: the tags (``str(task)``) that this seeder works on already, and which are left out.

        Raises:
            StorageError.
        """
        us = self._database.process
        async with self._database.transaction() as connection:
            now = await self._now(connection)
            is_free = TASKS.c.holder.in_(["", us]) | (TASKS.c.held_until <= now) if self.is_shared else sa.true()
            is_due = ~TASKS.c.has_failed & (TASKS.c.not_before <= now)
            is_new = (TASKS.c.name + ":" + TASKS.c.tag).not_in(under_way)
            query = sa.select(TASKS).where(is_due & is_free & is_new).order_by(TASKS.c.number).limit(limit)
            tasks = [_task(row) for row in await connection.execute(query.with_for_update(skip_locked=True))]
            held = TASKS.c.number.in_([task.number for task in tasks])
            if tasks:
                until = now + self.hold_seconds
                await connection.execute(sa.update(TASKS).where(held).values(holder=us, held_until=until))
        return tasks

    async def hold(self) -> set[str]:
        """Goes on holding this seeder's tasks; the tags (``str(task)``) that are still its own. Raises StorageError."""
        ours = TASKS.c.holder == self._database.process
        async with self._database.transaction() as connection:
            now = await self._now(connection)
            # What somebody changes at this moment is held until the next time: nobody waits for the other.
            rows = await connection.execute(sa.select(TASKS.c.number).where(ours).with_for_update(skip_locked=True))
            numbers = TASKS.c.number.in_([row.number for row in rows])
            await connection.execute(sa.update(TASKS).where(numbers).values(held_until=now + self.hold_seconds))
            kept = await connection.execute(
                sa.select(TASKS.c.name, TASKS.c.tag).where(ours & (TASKS.c.held_until > now))
            )
            return {f"{row.name}:{row.tag}" for row in kept}

    async def release(self, task: Task) -> None:
        """It, or what is wanted of its tag by now, is anybody's again. Raises StorageError."""
        ours = (TASKS.c.name == task.name) & (TASKS.c.tag == task.tag) & (TASKS.c.holder == self._database.process)
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(TASKS).where(ours).values(holder="", held_until=0.0))

    async def next_due(self) -> float | None:
        """Seconds until the next task's time comes; None: there is none. Raises StorageError."""
        query = sa.select(sa.func.min(TASKS.c.not_before)).where(~TASKS.c.has_failed)
        async with self._database.transaction() as connection:
            moment = (await connection.execute(query)).scalar_one()
            return None if moment is None else max(0.0, moment - await self._now(connection))

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
                await self._set_right(connection, task)
                return False
            await self._journal.append(connection, task.name, task.tag, task.meaning)
        return True

    async def _set_right(self, connection: AsyncConnection, task: Task) -> None:
        """Somebody slow, whose host slept, has set a tag that meant something else by then: it is set once more."""
        key = (task.name, task.tag)
        held = (await self._wanted(connection, [key])).get(key)
        this = (TASKS.c.name == task.name) & (TASKS.c.tag == task.tag)
        is_queued = (await connection.execute(sa.select(TASKS.c.number).where(this))).first() is not None
        if held is not None and held.digest != task.meaning.digest and not is_queued:
            await _queue(connection, {key: held}, task.source)

    async def wants(self, task: Task) -> bool:
        """Whether nothing else is wanted of its tag meanwhile. Raises StorageError."""
        async with self._database.transaction() as connection:
            found = await connection.execute(sa.select(TASKS.c.number).where(TASKS.c.number == task.number))
            return found.first() is not None

    async def fail(self, task: Task, error: str, again_in_seconds: float | None) -> None:
        """It did not work: again later, or not by itself any more. Raises StorageError."""
        async with self._database.transaction() as connection:
            values = {
                "attempts": task.attempts + 1,
                "error": error[:1000],
                "has_failed": again_in_seconds is None,
                "not_before": await self._now(connection) + (again_in_seconds or 0.0),
            }
            await connection.execute(sa.update(TASKS).where(TASKS.c.number == task.number).values(values))

    async def retry(self) -> None:
        """Every task is due now, those that have failed as well. Raises StorageError."""
        async with self._journal.changing() as connection:
            await connection.execute(sa.update(TASKS).values(has_failed=False, attempts=0, not_before=0.0))

    async def conflicts(self) -> list[Conflict]:
        """The latest first. Raises StorageError."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(sa.select(CONFLICTS).order_by(CONFLICTS.c.number.desc()))
            return [Conflict(*tuple(row)[1:]) for row in rows]

    async def _take_in(self, connection: AsyncConnection, news: Sequence[_News], source: str) -> int:
        """Queues what the tags mean now that this is known; how many that are. What is held stays where it is newer."""
        count = 0
        for at in range(0, len(news), _PAGE):
            some = news[at : at + _PAGE]
            held = await self._wanted(connection, [(name, tag) for name, tag, _ in some])
            wanted: dict[tuple[str, str], Meaning] = {}
            for name, tag, tell in some:
                told = tell(held.get((name, tag)))
                settled = settle(held.get((name, tag)), told) if told is not None else None
                if settled is None or settled.meaning is None:
                    continue
                if settled.lost is not None:
                    await self._report(connection, name, tag, settled.meaning, settled.lost)
                wanted[name, tag] = held[name, tag] = settled.meaning
            await _queue(connection, wanted, source)
            count += len(wanted)
        return count

    def _moved(self, now: Seen, born_at: int, held: Meaning | None, *, is_first: bool) -> Meaning:
        """What our registry says anew. Of a tag that it had never told nobody knows whether it is older than what
        another site has told of that tag: that is a conflict."""
        versions = moved(held.versions if held else {}, self.site, born_at)
        if is_first and held is not None and held.origin != self.site:
            versions = {self.site: versions[self.site]}
        return Meaning(now.digest, self.site, versions, now.terms)

    def _deleted(self, terms: Mapping[str, Terms], born_at: int, held: Meaning | None) -> Meaning:
        return Meaning(None, self.site, moved(held.versions if held else {}, self.site, born_at), terms)

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

    async def _wanted(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], Meaning]:
        """What tags, at most a page of them, mean here when the queue is done; by name and tag."""
        records = await self._journal.get_some(connection, keys)
        found = {(record.name, record.tag): record.meaning for record in records}
        names, tags = {name for name, _ in keys}, {tag for _, tag in keys}
        query = sa.select(TASKS).where(TASKS.c.name.in_(names) & TASKS.c.tag.in_(tags))
        for row in await connection.execute(query):
            found[row.name, row.tag] = load_meaning(row.digest, row.move)
        return found

    async def _now(self, connection: AsyncConnection) -> float:
        return self._clock() if self._clock is not None else await self._database.now(connection)

    async def _report(self, connection: AsyncConnection, name: str, tag: str, kept: Meaning, lost: Meaning) -> None:
        SYNC_CONFLICTS.inc()
        row = {
            "at": await self._now(connection),
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


async def _put_seen(connection: AsyncConnection, name: str, changed: Mapping[str, Seen], gone: Sequence[str]) -> None:
    for tags in (list(changed), list(gone)):
        if tags:
            this = (SEEN.c.name == name) & (SEEN.c.tag == sa.bindparam("old"))
            await connection.execute(sa.delete(SEEN).where(this), [{"old": tag} for tag in tags])
    rows = [
        {
            "name": name,
            "tag": tag,
            "digest": str(seen.digest),
            "terms": json.dumps({site: each.model_dump(mode="json") for site, each in sorted(seen.terms.items())}),
        }
        for tag, seen in changed.items()
    ]
    if rows:
        await connection.execute(sa.insert(SEEN), rows)


async def _queue(connection: AsyncConnection, wanted: Mapping[tuple[str, str], Meaning], source: str) -> None:
    """In the place of what was wanted of these tags before."""
    if not wanted:
        return
    names, tags = {name for name, _ in wanted}, {tag for _, tag in wanted}
    before = sa.select(TASKS).where(TASKS.c.name.in_(names) & TASKS.c.tag.in_(tags)).order_by(TASKS.c.number)
    held = {(row.name, row.tag): row for row in await connection.execute(before.with_for_update())}
    this = (TASKS.c.name == sa.bindparam("old_name")) & (TASKS.c.tag == sa.bindparam("old_tag"))
    await connection.execute(sa.delete(TASKS).where(this), [{"old_name": name, "old_tag": tag} for name, tag in wanted])
    rows = [
        {
            "name": name,
            "tag": tag,
            "digest": str(each.digest or ""),
            "move": dump_move(each),
            "source": source,
            "holder": held[name, tag].holder if (name, tag) in held else "",
            "held_until": held[name, tag].held_until if (name, tag) in held else 0.0,
        }
        for (name, tag), each in wanted.items()
    ]
    await connection.execute(sa.insert(TASKS), rows)


def _load_terms(text: str) -> dict[str, Terms]:
    return {site: Terms.model_validate(each) for site, each in json.loads(text).items()}
