"""The tag journal: its sequence only grows, over restarts too, and a follower misses nothing it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from seeder.database import Database
from seeder.moves import Meaning
from seeder.tags import TagJournal
from tests.support.postgres import Cluster
from tests.support.waiting import until

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


@pytest.fixture
def journal(database: Database) -> TagJournal:
    return TagJournal(database)


async def test_a_change_gets_the_next_number_and_the_same_digest_again_none(journal: TagJournal) -> None:
    first = await journal.put("docker.io/library/nginx", "1", ONE)
    assert await journal.put("docker.io/library/nginx", "1", ONE) == first
    changed = await journal.put("docker.io/library/nginx", "1", TWO)
    assert changed.sequence > first.sequence
    assert await journal.newer_than(0, 10) == [changed]


async def test_a_follower_resumes_where_it_stopped(journal: TagJournal) -> None:
    records = [await journal.put("team/app", f"v{number}", ONE) for number in range(5)]
    page = await journal.newer_than(0, 2)
    assert page == records[:2]
    assert await journal.newer_than(page[-1].sequence, 10) == records[2:]
    assert await journal.newer_than(records[-1].sequence, 10) == []


async def test_numbers_are_never_used_again_after_a_restart(
    journal: TagJournal, database: Database, database_url: str
) -> None:
    await journal.put("team/app", "v1", ONE)
    last = await journal.put("team/app", "v1", TWO)
    await database.close()
    again = await Database.open(database_url)
    reopened = TagJournal(again)
    assert await reopened.newer_than(0, 10) == [last]
    assert (await reopened.put("team/app", "v1", ONE)).sequence > last.sequence
    await again.close()


async def test_concurrent_changes_all_get_a_number_of_their_own(journal: TagJournal) -> None:
    records = await asyncio.gather(*(journal.put("team/app", f"v{number}", ONE) for number in range(20)))
    assert len({record.sequence for record in records}) == 20
    assert await journal.newer_than(0, 100) == sorted(records, key=lambda record: record.sequence)


@pytest.mark.parametrize(("name", "tag"), [("../etc", "v1"), ("Team/app", "v1"), ("team/app", "-v1"), ("", "v1")])
async def test_what_is_no_tag_is_refused(journal: TagJournal, name: str, tag: str) -> None:
    with pytest.raises(InputError, match="invalid tag"):
        await journal.put(name, tag, ONE)


@pytest.mark.e2e("postgresql")
async def test_of_two_seeders_who_begins_later_is_numbered_and_seen_later(postgres: Cluster) -> None:
    """Else a follower could read the later number first, and never ask for the earlier one."""
    url = postgres.database()
    first, second = await Database.open(url), await Database.open(url)
    one, other = TagJournal(first, "bj"), TagJournal(second, "bj")
    assert await one.identity() == await other.identity()
    async with one.changing() as connection:
        slow = await one.append(connection, "team/app", "slow", Meaning(ONE))
        quick = asyncio.create_task(other.put("team/app", "quick", ONE))
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await until(lambda: postgres.sql(waits) == "1")
        assert await other.newer_than(0, 10) == []
    assert (await quick).sequence > slow.sequence
    assert [record.tag for record in await other.newer_than(0, 10)] == ["slow", "quick"]
    await first.close()
    await second.close()


@pytest.mark.e2e("postgresql")
async def test_a_follower_hears_at_one_seeder_what_another_one_wrote(postgres: Cluster) -> None:
    url = postgres.database()
    first, second = await Database.open(url), await Database.open(url)
    told = asyncio.create_task(TagJournal(second).wait_newer(0, 10, 60))
    record = await TagJournal(first).put("team/app", "v1", ONE)
    assert await told == [record]
    await first.close()
    await second.close()
