"""SQLite as the seeder's database: a file of one process, of which a copy is kept before its tables change."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from imagedist.errors import ConfigError, FullError, StorageError, storage_error
from imagedist.locking import LockFile
from imagedist.threads import settled
from seeder.migrating import HEAD, revision

_COPIES = 2


class Sqlite:
    """
    Args:
        rest: of the URL, behind ``sqlite://``: a slash and the path, which may begin with a slash of its own.
        patience_seconds: so long the process before may take to end.
    """

    is_shared = False

    def __init__(self, rest: str, patience_seconds: float) -> None:
        path = rest.partition("?")[0][1:]
        if not rest.startswith("/") or not path:
            raise ConfigError("bad value for seeder.database: expected sqlite:////path/of/seeder.db")
        self._path = Path(path)
        self._patience_seconds = patience_seconds
        self._lock: LockFile | None = None

    async def open(self) -> AsyncEngine:
        """Raises StorageError: no directory for it, or another process has it open."""
        await settled(asyncio.to_thread(self._take), lambda _: self._release())
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{self._path}",
            pool_size=1,  # it has one writer: transactions wait here, in order
            max_overflow=0,
        )
        sa.event.listen(engine.sync_engine, "connect", _no_own_transactions)
        sa.event.listen(engine.sync_engine, "begin", _begin)
        return engine

    async def prepare(self, engine: AsyncEngine) -> None:
        """Keeps a copy aside when the tables are about to change. Raises StorageError."""
        async with engine.connect() as connection:
            found = await connection.run_sync(revision)
        if found is not None and found != HEAD:
            await settled(asyncio.to_thread(_keep_copy, self._path, found))

    async def lock(self, connection: AsyncConnection, key: str) -> None:
        """Every transaction has the whole file to itself."""

    def explain(self, error: BaseException) -> Exception:
        return StorageError(f"the seeder's database failed ({self._path}): {str(error).partition(chr(10))[0]}")

    async def close(self) -> None:
        self._release()

    def _take(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(f"make the directory of the database {self._path}", error) from error
        self._lock = LockFile(self._path.with_name(f"{self._path.name}.lock"))
        try:
            self._lock.acquire(timeout_seconds=self._patience_seconds)
        except StorageError as error:
            self._release()
            raise StorageError(
                f"another seeder has the database {self._path} open: a file is for one; several share a PostgreSQL "
                "(docs/database.md)"
            ) from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _no_own_transactions(connection: Any, _: Any) -> None:
    """The module's own ones begin with the first change, so that what was read before it is not in them."""
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _keep_copy(database: Path, of_revision: str) -> None:
    """``seeder.db.before-HEAD``, of what the database is now; of those of earlier times the last one stays.

    Raises:
        StorageError.
    """
    copy = database.with_name(f"{database.name}.before-{HEAD}")
    aside = copy.with_name(f"{copy.name}.part")
    try:
        size_bytes = database.stat().st_size
        free_bytes = shutil.disk_usage(database.parent).free
        if free_bytes < 2 * size_bytes:
            raise FullError(
                f"no room to bring the database {database} from {of_revision} to {HEAD}: a copy is kept aside; "
                f"free {2 * size_bytes - free_bytes} bytes"
            )
        aside.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(aside)) as to:
            source.backup(to)
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(copy)
        ours = f"{database.name}.before-[0-9][0-9][0-9][0-9]"  # whatever else is called so is somebody's own
        copies = sorted(database.parent.glob(ours), key=lambda each: each.stat().st_mtime)
        for old in copies[:-_COPIES]:
            old.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot keep a copy of the database {database} at {copy}: {error}") from error
