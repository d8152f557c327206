"""The seeder's database: SQLite by default, PostgreSQL by URL; one engine for every room that keeps rows in it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from imagedist.errors import ConfigError, SourceError, StorageError
from seeder import postgres
from seeder.migrating import migrate
from seeder.sqlite import Sqlite

_LOG = logging.getLogger(__name__)

_PATIENCE_SECONDS = 30.0
"""So long a server that does not answer is waited for at start (both may be starting), or the process before."""
_LONGEST_PAUSE_SECONDS = 3.0
_CHECK_SECONDS = 5.0
_MIGRATING: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Alembic's state is the process's: of several seeders in one, as in tests, one migrates at a time."""


class Backend(Protocol):
    """What the two databases do not have in common."""

    is_shared: bool

    async def open(self) -> AsyncEngine: ...

    async def prepare(self, engine: AsyncEngine) -> None:
        """Before the first migration."""

    async def lock(self, connection: AsyncConnection, key: str) -> None:
        """Alone, among all that lock this key, until the transaction's end."""

    def explain(self, error: BaseException) -> Exception: ...

    async def close(self) -> None: ...


class Database:
    """Made by ``await Database.open(url)``.

    Attributes:
        is_shared: whether several seeders may have it open (PostgreSQL).
        process: names this process, for ever, among all that have it open; up to the ``#`` for people.
    """

    def __init__(self, engine: AsyncEngine, backend: Backend, name: str = "") -> None:
        self._engine = engine
        self._backend = backend
        self.is_shared = backend.is_shared
        self.process = f"{name or f'{socket.gethostname()}:{os.getpid()}'}#{uuid.uuid4().hex}"
        self._failures: tuple[type[Exception], ...] = (SQLAlchemyError, OSError, *postgres.errors())

    @classmethod
    async def open(cls, url: str, name: str = "", *, patience_seconds: float = _PATIENCE_SECONDS) -> Database:
        """Opens the database, and brings its tables to this version (``seeder/migrations``).

        Args:
            url: ``sqlite:///path`` or ``postgresql://…``; the async driver is chosen here.
            name: of this process, for the others'. Empty: its host and number.
            patience_seconds: how long a server that does not answer, or a process that has the file, is waited for.

        Raises:
            ConfigError: not such a URL, its driver is not installed, or the server refuses us. StorageError: the
                database cannot be opened, or is of a newer version.
        """
        backend = _backend(url, patience_seconds)
        engine = await backend.open()
        database = cls(engine, backend, name)
        said = ""

        def say(state: Any) -> None:
            nonlocal said
            reason = str(state.outcome.exception())
            if reason != said:
                _LOG.warning("waiting for the database: %s", reason)
            said = reason

        retrying = AsyncRetrying(
            stop=stop_after_delay(patience_seconds),
            wait=wait_random_exponential(multiplier=0.2, max=_LONGEST_PAUSE_SECONDS),
            retry=retry_if_exception_type(SourceError),
            before_sleep=say,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    await database._migrate()
        except SourceError as error:
            await database.close()
            raise StorageError(str(error)) from error
        except BaseException:
            await database.close()
            raise
        return database

    async def _migrate(self) -> None:
        """Raises SourceError: the server does not answer (now)."""
        try:
            await self._backend.prepare(self._engine)
            turn = _MIGRATING.setdefault(asyncio.get_running_loop(), asyncio.Lock())
            async with turn, self._engine.begin() as connection:
                await self._backend.lock(connection, "migration")
                await connection.run_sync(migrate)
        except self._failures as error:
            raise self._backend.explain(error) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """All of the block's statements or none. Raises StorageError."""
        try:
            async with self._engine.begin() as connection:
                yield connection
        except self._failures as error:
            raise StorageError(str(self._backend.explain(error))) from error

    async def lock(self, connection: AsyncConnection, key: str) -> None:
        """Within a transaction: who locks the same key, in any process, waits until this one ends.

        What the transaction reads from then on is what the one before has written.
        """
        await self._backend.lock(connection, key)

    async def now(self, connection: AsyncConnection) -> float:
        """Seconds since the epoch by the one clock that all who share the database see."""
        if not self.is_shared:
            return time.time()
        return float((await connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one())

    async def check(self) -> str | None:
        """Why the database does not answer; None: it does."""
        try:
            async with asyncio.timeout(_CHECK_SECONDS), self.transaction() as connection:
                await connection.execute(sa.select(1))
        except TimeoutError:
            return f"the seeder's database does not answer within {_CHECK_SECONDS:.0f} s"
        except StorageError as error:
            return str(error)
        return None

    async def upsert(
        self,
        connection: AsyncConnection,
        table: sa.Table,
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
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
        await self._backend.close()


def _backend(url: str, patience_seconds: float) -> Backend:
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        return Sqlite(rest, patience_seconds)
    if separator and scheme == "postgresql":
        return postgres.Postgres(url)
    shown = f"{scheme}://" if separator else repr(url.partition(":")[0])
    raise ConfigError(f"bad value for seeder.database: expected sqlite:///… or postgresql://…, got {shown}")
