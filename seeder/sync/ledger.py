"""What sync knows, in the seeder's database: nothing of it is lost or half done when the process dies.

A change comes into the queue with what was learned by it in one transaction, and goes out with the journal's record in
another.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from imagedist.metrics import SYNC_CONFLICTS
from imagedist.oci.digest import Digest
from seeder.database import Database
from seeder.moves import Meaning, Terms, moved, relation, settle
from seeder.sync.queue import HOLD_SECONDS, Queue, Task
from seeder.sync.tables import CONFLICTS, CURSORS, SEEN
from seeder.tags import TagJournal, TagRecord

_PAGE = 1000
MAX_CONFLICTS = 200
"""Reported, the latest ones."""


_News = tuple[str, str, Callable[[Meaning | None], Meaning | None]]
"""Name, tag, and what is told of it, given what is held; None: nothing."""


class Seen(NamedTuple):
    """What the registry said of a tag, and the terms that rules gave it."""

    digest: Digest
    terms: Mapping[str, Terms]


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
        hold_seconds, clock: of the queue.

    Attributes:
        queue: what is to be done here.
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
        self.queue = Queue(database, hold_seconds, clock)

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
                await self.queue.put(connection, {key: wanted[key] for key in keys[at : at + _PAGE]}, source)
            await connection.execute(sa.delete(CURSORS))

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

    async def finish(self, task: Task) -> bool:
        """The tag is set: the journal says so from now on. False: something else is wanted meanwhile.

        Raises:
            StorageError.
        """
        async with self._journal.changing() as connection:
            if not await self.queue.take(connection, task):
                await self._set_right(connection, task)
                return False
            await self._journal.append(connection, task.name, task.tag, task.meaning)
        return True

    async def _set_right(self, connection: AsyncConnection, task: Task) -> None:
        """Somebody slow, whose host slept, has set a tag that meant something else by then: it is set once more."""
        key = (task.name, task.tag)
        held = (await self._wanted(connection, [key])).get(key)
        is_queued = await self.queue.has(connection, task.name, task.tag)
        if held is not None and held.digest != task.meaning.digest and not is_queued:
            await self.queue.put(connection, {key: held}, task.source)

    async def retry(self) -> None:
        """Every task is due now, those that have failed as well. Raises StorageError."""
        async with self._journal.changing() as connection:
            await self.queue.make_due(connection)

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
            await self.queue.put(connection, wanted, source)
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
        return found | await self.queue.wanted(connection, keys)

    async def _report(self, connection: AsyncConnection, name: str, tag: str, kept: Meaning, lost: Meaning) -> None:
        SYNC_CONFLICTS.inc()
        row = {
            "at": await self.queue.now(connection),
            "name": name,
            "tag": tag,
            "kept": str(kept.digest or "deleted"),
            "kept_of": kept.origin,
            "lost": str(lost.digest or "deleted"),
            "lost_of": lost.origin,
        }
        number = (await connection.execute(sa.insert(CONFLICTS).values(row).returning(CONFLICTS.c.number))).scalar_one()
        await connection.execute(sa.delete(CONFLICTS).where(CONFLICTS.c.number <= number - MAX_CONFLICTS))


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


def _load_terms(text: str) -> dict[str, Terms]:
    return {site: Terms.model_validate(each) for site, each in json.loads(text).items()}
