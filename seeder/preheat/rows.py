"""The rules and their runs in the seeder's database: one row each, written whenever something of it changes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from seeder.database import Database
from seeder.leading import Leading
from seeder.preheat.run import Run

_LOG = logging.getLogger(__name__)

SCHEMA = sa.MetaData()
_PREHEATS = sa.Table(
    "preheats",
    SCHEMA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("run", sa.Text, nullable=False),
)


class RunRows:
    """
    Args:
        leading: only who leads writes. None: nobody else has the database.
    """

    def __init__(self, database: Database, leading: Leading | None = None) -> None:
        self._database = database
        self._leading = leading

    async def load(self) -> list[Run]:
        """Every run; one that a newer version has written is left alone. Raises StorageError."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(sa.select(_PREHEATS).order_by(_PREHEATS.c.name))).all()
        runs = []
        for row in rows:
            try:
                runs.append(Run.model_validate_json(row.run))
            except ValidationError as error:
                _LOG.error("the preheat %s is of another version and rests: %s", row.name, error.errors()[0]["msg"])
        return runs

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[AsyncConnection]:
        async with self._database.transaction() as connection:
            if self._leading is not None:
                await self._leading.require_in(connection)
            yield connection

    async def put(self, run: Run) -> None:
        """Raises StorageError."""
        async with self._changing() as connection:
            row = {"name": run.rule.name, "run": run.model_dump_json()}
            await self._database.upsert(connection, _PREHEATS, [row])

    async def delete(self, name: str) -> None:
        """Raises StorageError."""
        async with self._changing() as connection:
            await connection.execute(sa.delete(_PREHEATS).where(_PREHEATS.c.name == name))
