"""The seeder's database: SQLite by default, PostgreSQL by URL; one engine for every room that keeps rows in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from imagedist.errors import ConfigError, StorageError, storage_error

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class Database:
    """Made by ``await Database.open(url, …)``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    async def open(cls, url: str, *schemas: sa.MetaData) -> Database:
        """Opens the database and makes the tables that are missing.

        Args:
            url: ``sqlite:///path`` or ``postgresql://…``; the async driver is chosen here.

        Raises:
            ConfigError: not such a URL, or its driver is not installed. StorageError: the database cannot be opened.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _DRIVERS:
            raise ConfigError(f"bad value for seeder.database: expected sqlite:///… or postgresql://…, got {scheme}://")
        if scheme == "sqlite":
            await asyncio.to_thread(_make_directory, Path(rest[1:]))
        try:
            engine = create_async_engine(f"{_DRIVERS[scheme]}://{rest}")
        except ModuleNotFoundError as error:
            extra = " (pip install 'imagedist[postgres]')" if scheme == "postgresql" else ""
            raise ConfigError(
                f"seeder.database is {scheme}, whose driver is missing: install {error.name}{extra}"
            ) from error
        except ArgumentError as error:
            raise ConfigError(f"bad value for seeder.database: {error}") from error
        database = cls(engine)
        try:
            async with database.transaction() as connection:
                for schema in schemas:
                    await connection.run_sync(schema.create_all)
        except StorageError:
            await engine.dispose()
            raise
        return database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """All of the block's statements or none. Raises StorageError."""
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise StorageError(f"the seeder's database failed ({self._engine.url!r}): {reason}") from error

    async def upsert(self, connection: AsyncConnection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Inserts rows, or replaces those of the same primary key. Both databases have one statement for it."""
        if not rows:
            return
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table)
        keys = [column.name for column in table.primary_key]
        others = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
        await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others), list(rows))

    async def close(self) -> None:
        await self._engine.dispose()


def _make_directory(database: Path) -> None:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(f"make the directory of the database {database}", error) from error
