"""What sync has to do outlives the process, and is done once: the queue, the cursors, the conflicts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
import sqlalchemy as sa

from imagedist.oci.digest import Digest
from seeder.database import Database
from seeder.leases import Leases, LostError
from seeder.moves import Meaning, Terms
from seeder.sync.ledger import MAX_CONFLICTS, Ledger, Seen
from seeder.tags import TagJournal, TagRecord
from tests.support.postgres import Cluster

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
NAME = "local/team/app"
TERMS = {"sh": Terms()}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, TagJournal(database, "sh", clock=clock), clock=clock)


def told(tag: str, digest: Digest | None = ONE, version: int = 1, **terms: Terms) -> TagRecord:
    return TagRecord(1, NAME, tag, Meaning(digest, "bj", {"bj": version}, terms or TERMS))


async def tags_of(ledger: Ledger) -> list[str]:
    return [task.tag for task in await ledger.queue.due(10_000, [])]


async def test_a_page_is_queued_in_order_and_the_cursor_stands_behind_it(ledger: Ledger) -> None:
    records = [told(f"{number}") for number in range(1000)]
    assert await ledger.note_page("bj", "j1", 1000, records) == 1000
    assert await tags_of(ledger) == [f"{number}" for number in range(1000)]
    assert await ledger.cursor("bj", "j1") == await ledger.cursor("bj", "") == 1000
    assert await ledger.cursor("bj", "j2") == await ledger.cursor("gz", "") == 0


async def test_the_same_page_again_changes_nothing(ledger: Ledger) -> None:
    await ledger.note_page("bj", "j1", 1, [told("a")])
    (task,) = await ledger.queue.due(10, [])
    assert await ledger.note_page("bj", "j1", 1, [told("a")]) == 0
    await ledger.finish(task)
    assert await ledger.note_page("bj", "j1", 1, [told("a")]) == 0
    assert await tags_of(ledger) == []


async def test_a_tag_that_moves_on_while_it_is_worked_on_is_done_anew(ledger: Ledger) -> None:
    await ledger.note_page("bj", "j1", 1, [told("a", ONE)])
    (task,) = await ledger.queue.due(10, [])
    await ledger.note_page("bj", "j1", 2, [told("a", TWO, 2)])
    assert not await ledger.queue.wants(task)
    assert not await ledger.finish(task)
    (newer,) = await ledger.queue.due(10, [])
    assert newer.meaning.digest == TWO
    assert await ledger.finish(newer)
    assert [record.digest for record in await ledger.journal_tags()] == [TWO]


async def test_a_failed_task_waits_for_its_time_and_then_for_somebody(ledger: Ledger, clock: Clock) -> None:
    await ledger.note_page("bj", "j1", 1, [told("a")])
    (task,) = await ledger.queue.due(10, [])
    await ledger.queue.fail(task, "away", 30.0)
    assert (await tags_of(ledger), await ledger.queue.next_due()) == ([], 30.0)
    clock.now += 30
    (again,) = await ledger.queue.due(10, [])
    assert (again.attempts, again.error) == (1, "away")
    await ledger.queue.fail(again, "still away", None)
    clock.now += 1e6
    assert await tags_of(ledger) == []
    assert (await ledger.queue.counts(), await ledger.queue.next_due()) == ((0, 1), None)
    await ledger.retry()
    assert (await tags_of(ledger), await ledger.queue.counts()) == (["a"], (1, 0))


async def test_what_is_not_for_this_site_is_not_taken(ledger: Ledger) -> None:
    assert await ledger.note_page("bj", "j1", 1, [told("a", ONE, 1, gz=Terms())]) == 0
    assert await ledger.note_page("bj", "j1", 2, [told("b", None)]) == 0  # deleted before we heard of it


@pytest.mark.parametrize("deletes", [True, False])
async def test_a_tag_that_we_are_not_to_have_any_more_goes_if_its_rule_said_so(ledger: Ledger, deletes: bool) -> None:
    await ledger.note_page("bj", "j1", 1, [told("a", ONE, 1, sh=Terms(delete=deletes))])
    (task,) = await ledger.queue.due(10, [])
    await ledger.finish(task)
    await ledger.note_page("bj", "j1", 2, [told("a", ONE, 2, gz=Terms())])
    assert [task.meaning.digest for task in await ledger.queue.due(10, [])] == ([None] if deletes else [])


async def test_a_registrys_move_is_a_move_and_the_same_again_none(ledger: Ledger) -> None:
    seen = {"a": Seen(ONE, {"gz": Terms()})}
    assert await ledger.note_scan(NAME, seen, None) == 1
    (task,) = await ledger.queue.due(10, [])
    await ledger.finish(task)
    assert await ledger.note_scan(NAME, seen, None) == 0
    assert await ledger.note_scan(NAME, {"a": Seen(TWO, {"gz": Terms()})}, frozenset(["a"])) == 1
    (task,) = await ledger.queue.due(10, [])
    assert task.meaning.versions == {"sh": 1_000_001}


async def test_other_terms_are_told_as_well(ledger: Ledger) -> None:
    await ledger.note_scan(NAME, {"a": Seen(ONE, {"gz": Terms()})}, None)
    assert await ledger.note_scan(NAME, {"a": Seen(ONE, {"gz": Terms(platforms=("linux/amd64",))})}, None) == 1


async def test_only_tags_that_were_looked_at_can_be_gone(ledger: Ledger) -> None:
    terms = {"gz": Terms(delete=True)}
    await ledger.note_scan(NAME, {"a": Seen(ONE, terms), "b": Seen(ONE, terms)}, None)
    for task in await ledger.queue.due(10, []):
        await ledger.finish(task)
    assert await ledger.note_scan(NAME, {}, frozenset(["a"])) == 1
    assert [(task.tag, task.meaning.digest) for task in await ledger.queue.due(10, [])] == [("a", None)]
    assert list(await ledger.seen(NAME)) == ["b"]


async def test_conflicts_are_reported_the_latest_ones(ledger: Ledger) -> None:
    count = MAX_CONFLICTS + 5
    await ledger.note_scan(NAME, {f"{number}": Seen(ONE, TERMS) for number in range(count)}, None)
    await ledger.note_page("bj", "j1", 1, [told(f"{number}", TWO) for number in range(count)])
    conflicts = await ledger.conflicts()
    assert len(conflicts) == MAX_CONFLICTS
    assert conflicts[0].tag == f"{count - 1}"
    assert (conflicts[0].kept, conflicts[0].kept_of, conflicts[0].lost_of) == (str(TWO), "bj", "sh")


async def test_the_queue_outlives_the_process(ledger: Ledger, database: Database, database_url: str) -> None:
    await ledger.note_page("bj", "j1", 7, [told("a")])
    await database.close()
    reopened = await Database.open(database_url)
    later = Ledger(reopened, TagJournal(reopened, "sh"))
    assert await tags_of(later) == ["a"]
    assert await later.cursor("bj", "j1") == 7
    await reopened.close()


@pytest.mark.e2e("postgresql")
async def test_a_task_that_another_seeder_works_on_is_left_to_it_until_it_dies(postgres: Cluster) -> None:
    url = postgres.database()
    first, second = await Database.open(url), await Database.open(url)
    one, other = (Ledger(each, TagJournal(each, "sh")) for each in (first, second))
    await one.note_page("bj", "j1", 2, [told("a"), told("b"), told("c")])
    (task,) = await one.queue.due(1, [])
    assert [each.tag for each in await other.queue.due(1, [])] == ["b"]
    await other.note_page("bj", "j1", 3, [told("a", TWO, 2)])  # moves on meanwhile, and stays with the first
    assert [each.tag for each in await other.queue.due(10, [])] == ["b", "c"]
    assert await one.queue.hold() == {f"{NAME}:a"}
    assert not await one.finish(task)
    await one.queue.release(task)
    assert {each.tag: each.meaning.digest for each in await other.queue.due(10, [])} == {"a": TWO, "b": ONE, "c": ONE}
    async with first.transaction() as connection:  # its time is over: it has not held it for too long
        await connection.execute(sa.text("UPDATE sync_tasks SET held_until = held_until - 1000"))
    assert await other.queue.hold() == {f"{NAME}:{tag}" for tag in "abc"}
    async with first.transaction() as connection:
        await connection.execute(sa.text("UPDATE sync_tasks SET held_until = held_until - 1000"))
    assert len(await one.queue.due(10, [])) == 3
    assert await other.queue.hold() == set()
    await first.close()
    await second.close()


async def test_what_somebody_slow_has_set_is_set_right(ledger: Ledger) -> None:
    """It was put into the proxy when the tag meant something else, and was done, already."""
    await ledger.note_page("bj", "j1", 1, [told("a", ONE)])
    (slow,) = await ledger.queue.due(10, [])
    await ledger.note_page("bj", "j1", 2, [told("a", TWO, 2)])
    (newer,) = await ledger.queue.due(10, [])
    assert await ledger.finish(newer)
    assert not await ledger.finish(slow)
    (again,) = await ledger.queue.due(10, [])
    assert (again.meaning.digest, again.meaning.versions) == (TWO, {"bj": 2})
    assert await ledger.finish(again)
    assert not await ledger.finish(newer)
    assert await tags_of(ledger) == []  # nothing else was set: all is well


@pytest.mark.e2e("postgresql")
async def test_the_clocks_of_hosts_do_not_matter_for_when_a_task_is_due(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(postgres.database())
    ledger = Ledger(database, TagJournal(database, "sh"))
    await ledger.note_page("bj", "j1", 1, [told("a")])
    (task,) = await ledger.queue.due(10, [])
    with monkeypatch.context() as ahead:
        now = time.time()
        ahead.setattr(time, "time", lambda: now + 7200.0)
        await ledger.queue.fail(task, "away", 3600.0)
        assert await tags_of(ledger) == []
    assert 3000 < (await ledger.queue.next_due() or 0.0) <= 3600
    await database.close()


@pytest.mark.e2e("postgresql")
async def test_who_lost_its_lease_while_it_looked_notes_nothing(postgres: Cluster) -> None:
    database = await Database.open(postgres.database())
    ledger, leases = Ledger(database, TagJournal(database, "sh")), Leases(database)
    require = partial(leases.require, name="scan x")
    await leases.take("scan x")
    assert await ledger.note_scan(NAME, {"a": Seen(ONE, TERMS)}, None, require) == 1
    async with database.transaction() as connection:
        await connection.execute(sa.text("UPDATE leases SET holder = 'other'"))
    with pytest.raises(LostError, match="scan x is with another seeder by now"):
        await ledger.note_scan(NAME, {"a": Seen(TWO, TERMS)}, None, require)
    assert [seen.digest for seen in (await ledger.seen(NAME)).values()] == [ONE]
    await database.close()
