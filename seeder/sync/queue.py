"""Tags to be set or deleted at this site, in the seeder's database; every seeder that shares it works them off.

A task is in it until the journal says what it wanted; in between it may be worked on twice, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from seeder.database import Database
from seeder.moves import Meaning
from seeder.sync.tables import TASKS
from seeder.tags import dump_move, load_meaning

HOLD_SECONDS = 15.0


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


class Queue:
    """
    Args:
        hold_seconds: how long a task of a seeder that died is left to it.
        clock: seconds since the epoch. None: the database's, which all who share the queue see.
    """

    def __init__(self, database: Database, hold_seconds: float, clock: Callable[[], float] | None) -> None:
        self._database = database
        self.hold_seconds = hold_seconds
        self._clock = clock

    @property
    def is_shared(self) -> bool:
        """Whether other seeders work off the same queue."""
        return self._database.is_shared

    async def due(self, limit: int, under_way: Collection[str]) -> list[Task]:
        """The oldest tasks whose time has come, which are this seeder's from now on; see ``hold``.

        Args:
            under_way: the tags (``str(task)``) that this seeder works on already, and which are left out.

        Raises:
            StorageError.
        """
        us = self._database.process
        async with self._database.transaction() as connection:
            now = await self.now(connection)
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
            now = await self.now(connection)
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
            return None if moment is None else max(0.0, moment - await self.now(connection))

    async def tasks(self, limit: int) -> list[Task]:
        """The oldest ones, failed or not. Raises StorageError."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(sa.select(TASKS).order_by(TASKS.c.number).limit(limit))
            return [_task(row) for row in rows]

    async def from_source(self, source: str) -> list[Task]:
        """The tasks that a site told, or that are restored from it. Raises StorageError."""
        query = sa.select(TASKS).where(TASKS.c.source == source).order_by(TASKS.c.number)
        async with self._database.transaction() as connection:
            return [_task(row) for row in await connection.execute(query)]

    async def counts(self) -> tuple[int, int]:
        """How many tasks wait or run, and how many have failed. Raises StorageError."""
        query = sa.select(TASKS.c.has_failed, sa.func.count()).group_by(TASKS.c.has_failed)
        async with self._database.transaction() as connection:
            found = {bool(has_failed): count for has_failed, count in await connection.execute(query)}
        return found.get(False, 0), found.get(True, 0)

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
                "not_before": await self.now(connection) + (again_in_seconds or 0.0),
            }
            await connection.execute(sa.update(TASKS).where(TASKS.c.number == task.number).values(values))

    # In a transaction of whoever changes something else with it.

    async def put(self, connection: AsyncConnection, wanted: Mapping[tuple[str, str], Meaning], source: str) -> None:
        """In the place of what was wanted of these tags before."""
        if not wanted:
            return
        names, tags = {name for name, _ in wanted}, {tag for _, tag in wanted}
        before = sa.select(TASKS).where(TASKS.c.name.in_(names) & TASKS.c.tag.in_(tags)).order_by(TASKS.c.number)
        held = {(row.name, row.tag): row for row in await connection.execute(before.with_for_update())}
        this = (TASKS.c.name == sa.bindparam("old_name")) & (TASKS.c.tag == sa.bindparam("old_tag"))
        await connection.execute(
            sa.delete(TASKS).where(this), [{"old_name": name, "old_tag": tag} for name, tag in wanted]
        )
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

    async def take(self, connection: AsyncConnection, task: Task) -> bool:
        """It is done; False: something else is wanted of its tag meanwhile."""
        gone = await connection.execute(sa.delete(TASKS).where(TASKS.c.number == task.number))
        return bool(gone.rowcount)

    async def has(self, connection: AsyncConnection, name: str, tag: str) -> bool:
        this = (TASKS.c.name == name) & (TASKS.c.tag == tag)
        return (await connection.execute(sa.select(TASKS.c.number).where(this))).first() is not None

    async def wanted(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], Meaning]:
        """What is wanted of tags, at most a page of them, by name and tag; of others of their names and tags, too."""
        names, tags = {name for name, _ in keys}, {tag for _, tag in keys}
        query = sa.select(TASKS).where(TASKS.c.name.in_(names) & TASKS.c.tag.in_(tags))
        rows = await connection.execute(query)
        return {(row.name, row.tag): load_meaning(row.digest, row.move) for row in rows}

    async def make_due(self, connection: AsyncConnection) -> None:
        """Every task, those that have failed as well."""
        await connection.execute(sa.update(TASKS).values(has_failed=False, attempts=0, not_before=0.0))

    async def now(self, connection: AsyncConnection) -> float:
        """Seconds since the epoch."""
        return self._clock() if self._clock is not None else await self._database.now(connection)


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
