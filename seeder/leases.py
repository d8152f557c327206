"""What one of the seeders that share a database does at a time: it holds a lease, which runs out when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from imagedist.errors import StorageError
from seeder.database import Database

_LOG = logging.getLogger(__name__)

SECONDS = 15.0
_POLL_SECONDS = 0.1

SCHEMA = sa.MetaData()
_LEASES = sa.Table(
    "leases",
    SCHEMA,
    sa.Column("name", sa.String(400), primary_key=True),
    sa.Column("holder", sa.String(255), nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)
"""``until``: seconds since the epoch, by the database's clock."""


class LostError(StorageError):
    """Another seeder holds it by now: what was under way stops, and nothing of it is written."""


class Leases:
    """
    Args:
        seconds: how long one holds without being renewed.
    """

    def __init__(self, database: Database, seconds: float = SECONDS) -> None:
        self._database = database
        self.seconds = seconds

    @property
    def is_shared(self) -> bool:
        return self._database.is_shared

    async def take(self, name: str) -> str:
        """Takes a lease that nobody holds, or renews ours; who holds it now. Raises StorageError."""
        us = self._database.process
        async with self._database.transaction() as connection:
            await self._database.lock(connection, f"lease {name}")
            now = await self._database.now(connection)
            row = (await connection.execute(sa.select(_LEASES).where(_LEASES.c.name == name))).first()
            if row is not None and row.holder != us and row.until > now and self.is_shared:
                return str(row.holder)  # a file is of one process: the one before is dead
            row_now = {"name": name, "holder": us, "until": now + self.seconds}
            await self._database.upsert(connection, _LEASES, [row_now])
        return us

    async def give_up(self, name: str) -> None:
        """If it is ours. Raises StorageError."""
        async with self._database.transaction() as connection:
            ours = (_LEASES.c.name == name) & (_LEASES.c.holder == self._database.process)
            await connection.execute(sa.delete(_LEASES).where(ours))

    async def require(self, connection: AsyncConnection, name: str) -> None:
        """Within a transaction, which from then on nobody else's lease can overtake. Raises LostError."""
        query = sa.select(_LEASES.c.holder).where(_LEASES.c.name == name).with_for_update(read=True)
        holder = (await connection.execute(query)).scalar_one_or_none()
        if holder != self._database.process:
            raise LostError(f"{name} is with another seeder by now ({shown(holder or 'nobody')}): nothing is written")

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Waits for a lease and holds it for the block, which is cancelled when it gets lost.

        Raises:
            StorageError. LostError: it was, meanwhile.
        """
        while await self.take(name) != self._database.process:  # noqa: ASYNC110 - another process has it
            await asyncio.sleep(_POLL_SECONDS)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.seconds) as patience:

                async def renew() -> None:
                    while True:
                        await asyncio.sleep(self.seconds / 3)
                        asked_at = loop.time()
                        try:
                            if await self.take(name) == self._database.process:
                                patience.reschedule(asked_at + self.seconds)
                        except StorageError:
                            continue  # what is held now is held until its time is over

                renewing = asyncio.create_task(renew())
                try:
                    yield
                finally:
                    renewing.cancel()
                    await asyncio.wait([renewing])
        except TimeoutError as error:
            if not patience.expired():
                raise
            raise LostError(f"{name} could not be held: the database did not answer for {self.seconds:g} s") from error
        finally:
            try:
                await self.give_up(name)
            except StorageError as error:  # the block's own end, such as a cancellation, is what counts
                _LOG.warning("%s is not given up, but runs out: %s", name, error)


def shown(holder: str) -> str:
    """A holder's name as an operator knows it."""
    return holder.partition("#")[0]
