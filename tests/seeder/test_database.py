"""Opening the seeder's database: what is wrong with it is named, and an older one is taken on without losing a row."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from imagedist.errors import ConfigError, StorageError
from seeder import leases, node_rows, tags
from seeder.backup import tables as backup_tables
from seeder.database import Database
from seeder.migrating import HEAD
from seeder.preheat import rows as preheat_rows
from seeder.sync import tables as sync_tables
from tests.support.counts import count
from tests.support.postgres import PASSWORD, Cluster

SCHEMAS = [
    tags.SCHEMA,
    leases.SCHEMA,
    sync_tables.SCHEMA,
    backup_tables.SCHEMA,
    node_rows.SCHEMA,
    preheat_rows.SCHEMA,
]
OLDER: Sequence[Sequence[str]] = [
    ["tag_journal"],
    ["tag_journal", "nodes"],
    ["tag_journal", "nodes", "preheats"],
    [
        "tag_journal",
        "nodes",
        "preheats",
        "tag_moves",
        "journal_identity",
        "sync_seen",
        "sync_cursors",
        "sync_conflicts",
    ],
]
"""What databases held before there were revisions, in the order in which it came."""
TASKS = """CREATE TABLE sync_tasks (number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name VARCHAR(255) NOT NULL,
    tag VARCHAR(128) NOT NULL, digest VARCHAR(160) NOT NULL, move TEXT NOT NULL, source VARCHAR(255) NOT NULL,
    attempts INTEGER NOT NULL, not_before FLOAT NOT NULL, has_failed BOOLEAN NOT NULL, error TEXT NOT NULL,
    UNIQUE (name, tag))"""


@pytest.mark.parametrize("url", ["seeder.db", "mysql://x", "sqlite+aiosqlite:///x", "sqlite://", "sqlite:///"])
async def test_an_unknown_database_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"seeder\.database"):
        await Database.open(url)


async def test_a_missing_driver_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"asyncpg \(pip install 'imagedist\[postgres\]'\)"):
        await Database.open("postgresql://localhost/seeder")


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "seeder.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match=r"seeder\.db"):
        await Database.open(f"sqlite:///{tmp_path}/seeder.db")


async def test_a_server_that_is_down_is_tried_for_a_while_and_then_named_without_the_password() -> None:
    with pytest.raises(StorageError, match=r"PostgreSQL at postgresql://me@127\.0\.0\.1:1/x does not answer"):
        await Database.open("postgresql://me:secret@127.0.0.1:1/x", patience_seconds=0.3)


@pytest.mark.parametrize("password", ["quiet/site", "quiet#site", "quiet?site", "quiet@site", "[quiet-site"])
async def test_a_password_that_nobody_has_escaped_is_not_shown(password: str) -> None:
    with pytest.raises((ConfigError, StorageError)) as told:
        await Database.open(f"postgresql://me:{password}@127.0.0.1:1/x", patience_seconds=0.1)
    assert "quiet" not in str(told.value)
    with pytest.raises(ConfigError) as told:
        await Database.open(f"postgresql:me:{password}@127.0.0.1:1/x")
    assert "quiet" not in str(told.value)


async def test_copies_that_an_operator_has_made_stay(tmp_path: Path) -> None:
    own = [tmp_path / f"seeder.db.before-{word}" for word in ("the-move", "upgrade", "2026-11-27")]
    ours = [tmp_path / f"seeder.db.before-{number:04}" for number in range(3)]
    for copy in (*own, *ours):
        copy.write_bytes(b"")
    older = sqlite3.connect(tmp_path / "seeder.db")
    older.execute("CREATE TABLE nodes (id TEXT)")
    older.close()
    await (await Database.open(f"sqlite:///{tmp_path}/seeder.db")).close()
    assert all(copy.exists() for copy in own)
    assert len(list(tmp_path.glob("seeder.db.before-0*"))) == 2


@pytest.mark.e2e("postgresql")
async def test_what_waiting_does_not_help_is_told_at_once(postgres: Cluster) -> None:
    for url, said in (
        (postgres.url("postgres", "imagedist:wrong"), "refuses the user.*password authentication failed.*PGPASSFILE"),
        (postgres.url("nowhere"), 'database "nowhere" does not exist; make it'),
        (postgres.url("postgres") + "?sslmode=maybe", "bad value for seeder.database"),
    ):
        with pytest.raises(ConfigError, match=said) as told:
            await Database.open(url)
        assert PASSWORD not in str(told.value)


@pytest.mark.e2e("postgresql")
async def test_a_server_that_goes_away_is_told_and_one_that_comes_back_is_used_again(postgres: Cluster) -> None:
    database = await Database.open(postgres.database())
    assert await database.check() is None
    postgres.stop()
    try:
        assert "does not answer" in (await database.check() or "")
        with pytest.raises(StorageError, match="does not answer"):
            async with database.transaction() as connection:
                await connection.execute(sa.select(1))
    finally:
        postgres.start()
    assert await database.check() is None
    await database.close()


async def test_migrations_make_the_very_tables_that_the_rooms_use(database_url: str) -> None:
    database = await Database.open(database_url)
    both = sa.MetaData()
    for schema in SCHEMAS:
        for table in schema.sorted_tables:
            table.to_metadata(both)

    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), both))

    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


@pytest.mark.parametrize("held", [*OLDER, [*OLDER[-1], "sync_tasks"]], ids=lambda held: str(len(held)))
async def test_a_database_of_an_earlier_release_is_taken_on_with_its_rows(
    held: Sequence[str], database_url: str, tmp_path: Path
) -> None:
    """As those releases made it: their tables, and no word of a revision."""
    database = await Database.open(database_url)
    everything = await tables_of(database)
    async with database.transaction() as connection:
        await connection.execute(sa.text("DROP TABLE sync_tasks"))
        await connection.execute(sa.text("DROP TABLE alembic_version"))
        for name in everything - set(held) - {"sync_tasks", "alembic_version"}:
            await connection.execute(sa.text(f"DROP TABLE {name}"))
        if "sync_tasks" in held:
            serial = (
                TASKS
                if not database.is_shared
                else TASKS.replace("INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "BIGSERIAL PRIMARY KEY")
            )
            await connection.execute(sa.text(serial))
            await connection.execute(
                sa.text("INSERT INTO sync_tasks VALUES (7, 'a/b', 't', '', '{}', '', 0, 0, false, '')")
            )
        row = "INSERT INTO tag_journal (name, tag, digest) VALUES ('team/app', 'v1', 'sha256:00')"
        await connection.execute(sa.text(row))
    await database.close()
    again = await Database.open(database_url)
    assert await tables_of(again) == everything
    async with again.transaction() as connection:
        assert (await connection.execute(sa.text("SELECT name, tag FROM tag_journal"))).all() == [("team/app", "v1")]
        if "sync_tasks" in held:
            assert (await connection.execute(sa.text("SELECT number, name FROM sync_tasks"))).all() == [(7, "a/b")]
    await again.close()
    if not again.is_shared:
        (copy,) = (tmp_path / "new").glob("seeder.db.before-*")
        kept = sqlite3.connect(copy)
        assert kept.execute("SELECT name, tag FROM tag_journal").fetchall() == [("team/app", "v1")]
        kept.close()


async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(database_url: str) -> None:
    database = await Database.open(database_url)
    async with database.transaction() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(StorageError, match=f"newer version.*revision 9999; this one knows {HEAD}"):
        await Database.open(database_url)


async def test_a_migration_that_breaks_off_changes_nothing(database_url: str) -> None:
    """Here a view stands where a table is to be made, which the last step finds out."""
    database = await Database.open(database_url)
    async with database.transaction() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
        await connection.execute(sa.text("DROP TABLE sync_tasks"))
        await connection.execute(sa.text("DROP TABLE leases"))
        await connection.execute(sa.text("CREATE VIEW sync_tasks AS SELECT 1 AS number"))
    before = await tables_of(database)
    await database.close()
    with pytest.raises(StorageError):
        await Database.open(database_url)
    if database.is_shared:
        engine = sa.ext.asyncio.create_async_engine(database_url.replace("postgresql", "postgresql+asyncpg"))
    else:
        engine = sa.ext.asyncio.create_async_engine(database_url.replace("sqlite", "sqlite+aiosqlite"))
    async with engine.connect() as raw:
        assert set(await raw.run_sync(lambda sync: sa.inspect(sync).get_table_names())) == before
        assert (await raw.execute(sa.text("SELECT version_num FROM alembic_version"))).scalar_one() == "0001"
    await engine.dispose()


async def test_a_file_is_for_one_seeder_and_several_share_a_server(database_url: str) -> None:
    opened = await asyncio.gather(
        *(Database.open(database_url, patience_seconds=0.1) for _ in range(3)), return_exceptions=True
    )
    there = [each for each in opened if isinstance(each, Database)]
    assert len(there) == (3 if database_url.startswith("postgresql") else 1)
    assert all("another seeder" in str(each) for each in opened if not isinstance(each, Database))
    for each in there:
        await each.close()


@pytest.mark.prove
async def test_a_transaction_cancelled_at_any_point_leaves_nothing_behind(database_url: str) -> None:
    """Neither half of it, nor a connection or lock that the next one would wait for."""
    database = await Database.open(database_url)

    async def write(number: int) -> None:
        async with database.transaction() as connection:
            for tag in ("one", "other"):
                row = {"name": f"n{number}", "tag": tag, "digest": ""}
                statement = "INSERT INTO tag_journal (name, tag, digest) VALUES (:name, :tag, :digest)"
                await connection.execute(sa.text(statement), row)

    for number in range(count(40, 400)):
        writing = [asyncio.create_task(write(10 * number + each)) for each in range(3)]
        for _ in range(number % 40):
            await asyncio.sleep(0)
        writing[0].cancel()
        writing[2].cancel()
        await asyncio.wait(writing)
        assert not writing[1].cancelled()
        writing[1].result()
    async with database.transaction() as connection:
        odd = "SELECT name FROM tag_journal GROUP BY name HAVING count(*) <> 2"
        assert (await connection.execute(sa.text(odd))).all() == []
    await database.close()


async def tables_of(database: Database) -> set[str]:
    async with database.transaction() as connection:
        return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))
