"""The tag journal: its sequence only grows, over restarts too, and a follower misses nothing it needs."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagedist.errors import ConfigError, InputError, StorageError
from imagedist.oci.digest import Digest
from seeder.tags import TagJournal

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/seeder.db"


@pytest.fixture
async def journal(url: str) -> AsyncIterator[TagJournal]:
    journal = await TagJournal.open(url)
    yield journal
    await journal.close()


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


async def test_numbers_are_never_used_again_after_a_restart(journal: TagJournal, url: str) -> None:
    await journal.put("team/app", "v1", ONE)
    last = await journal.put("team/app", "v1", TWO)
    await journal.close()
    reopened = await TagJournal.open(url)
    assert await reopened.newer_than(0, 10) == [last]
    assert (await reopened.put("team/app", "v1", ONE)).sequence > last.sequence
    await reopened.close()


async def test_concurrent_changes_all_get_a_number_of_their_own(journal: TagJournal) -> None:
    records = await asyncio.gather(*(journal.put("team/app", f"v{number}", ONE) for number in range(20)))
    assert len({record.sequence for record in records}) == 20
    assert await journal.newer_than(0, 100) == sorted(records, key=lambda record: record.sequence)


@pytest.mark.parametrize(("name", "tag"), [("../etc", "v1"), ("Team/app", "v1"), ("team/app", "-v1"), ("", "v1")])
async def test_what_is_no_tag_is_refused(journal: TagJournal, name: str, tag: str) -> None:
    with pytest.raises(InputError, match="invalid tag"):
        await journal.put(name, tag, ONE)


@pytest.mark.parametrize("url", ["seeder.db", "mysql://x", "sqlite+aiosqlite:///x"])
async def test_an_unknown_database_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"seeder\.database"):
        await TagJournal.open(url)


@pytest.mark.skipif(importlib.util.find_spec("asyncpg") is not None, reason="the driver is installed")
async def test_a_missing_driver_names_the_extra_that_brings_it() -> None:
    with pytest.raises(ConfigError, match=r"asyncpg \(pip install 'imagedist\[postgres\]'\)"):
        await TagJournal.open("postgresql://localhost/seeder")


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "seeder.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match=r"seeder\.db"):
        await TagJournal.open(f"sqlite:///{tmp_path}/seeder.db")
