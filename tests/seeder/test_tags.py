"""The tag journal: its sequence only grows, over restarts too, and a follower misses nothing it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from seeder.database import Database
from seeder.tags import TagJournal

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
