"""The tag journal: its sequence only grows, over restarts too, and a follower misses nothing it needs."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import InputError
from imagedist.oci.digest import Digest
from imagedist.service import serving
from seeder.database import Database
from seeder.moves import Meaning, Terms
from seeder.sync.ledger import Ledger, Seen
from seeder.tag_routes import JOURNAL_KEY, add_tag_routes
from seeder.tags import TagJournal, TagRecord
from tests.support.postgres import Cluster
from tests.support.waiting import until

ONE, TWO, THREE = Digest.of(b"1"), Digest.of(b"2"), Digest.of(b"3")


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


async def test_a_journal_that_was_given_back_says_so_and_its_moves_count_once_it_has_another_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        file, copy = tmp_path / "bj.db", tmp_path / "copy.db"
        sh = await Database.open(f"sqlite:///{tmp_path}/sh.db")
        stack.push_async_callback(sh.close)
        follower = Ledger(sh, TagJournal(sh, "sh"))

        async def moved_there(digest: Digest) -> TagRecord:
            """At bj, whose seeder starts and ends."""
            database = await Database.open(f"sqlite:///{file}")
            ledger = Ledger(database, TagJournal(database, "bj"))
            await ledger.note_scan("local/team/app", {"v": Seen(digest, {"sh": Terms()})}, None)
            (task,) = await ledger.queue.due(1, [])
            await ledger.finish(task)
            (record,) = await ledger.journal_tags()
            await database.close()
            return record

        async def is_taken(record: TagRecord) -> bool:
            return bool(await follower.note_page("bj", "j", record.sequence, [record]))

        assert await is_taken(await moved_there(ONE))
        shutil.copy(file, copy)
        read = await moved_there(TWO)
        assert await is_taken(read)
        shutil.copy(copy, file)
        database = await Database.open(f"sqlite:///{file}")
        journal = TagJournal(database, "bj")
        app = web.Application()
        app[JOURNAL_KEY] = journal
        add_tag_routes(app)
        address = await stack.enter_async_context(serving(app, Address("127.0.0.1", 0)))
        query = {"since": str(read.sequence), "journal": (await journal.identity()).journal}
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://{address}/site/v1/tags", params=query) as page,
        ):
            assert page.status == 200
        assert "the database was given back from a copy" in caplog.text
        await database.close()
        assert not await is_taken(await moved_there(THREE))  # what docs/database.md is for
        shutil.copy(copy, file)
        edited = sqlite3.connect(file)
        edited.execute("DELETE FROM journal_identity")
        edited.commit()
        edited.close()
        assert await is_taken(await moved_there(THREE))
