"""One seeder of a site leads: runs its preheats, keeps its inventory, looks at schedules, follows other sites.

All the others serve what needs no leader (tracker, seeds, journal, sync's queue), and take over when it is not heard
of any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncConnection

from imagedist.errors import OverloadedError, StorageError
from imagedist.metrics import LEADING
from seeder.database import Database
from seeder.leases import Leases, shown

_LOG = logging.getLogger(__name__)

_NAME = "the lead of the site"


class Leading:
    """Whether this seeder leads. By our own clock, counted from before the lease was asked for: never too long."""

    def __init__(self, database: Database, leases: Leases) -> None:
        self._us = database.process
        self._leases = leases
        self._until = float("-inf")
        self._leader = ""
        self._trouble = ""
        self._changed = asyncio.Event()

    @property
    def trouble(self) -> str | None:
        """Why nobody leads, as far as this seeder can see: the database takes no lease, as when its disk is full."""
        return f"nobody leads the site: {self._trouble}" if self._trouble and not self.leads else None

    @property
    def leads(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    def require(self) -> None:
        """Raises OverloadedError: another one leads, or none; to be asked again, or elsewhere."""
        if self.trouble is not None:
            raise OverloadedError(self.trouble)
        if not self.leads:
            leader = f"{self._leader} does: ask that one" if self._leader else "none does now: ask again"
            raise OverloadedError(f"this seeder does not lead the site, {leader}")

    async def require_in(self, connection: AsyncConnection) -> None:
        """The same within a transaction, at whose end it still holds. Raises LostError."""
        await self._leases.require(connection, _NAME)

    async def take(self) -> None:
        """Asks once. Raises StorageError."""
        asked_at = asyncio.get_running_loop().time()
        holder = await self._leases.take(_NAME)
        led = self.leads
        is_ours = holder == self._us
        self._until = asked_at + self._leases.seconds if is_ours else float("-inf")
        self._leader = "" if is_ours else shown(holder)
        LEADING.set(is_ours)
        if self.leads != led:
            _LOG.info("this seeder leads the site" if is_ours else f"seeder {self._leader} leads the site")
            self._tell()

    async def keep(self) -> None:
        """Takes the lead when it is free, and renews it; until cancelled, which gives it up."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                pause_seconds = self._leases.seconds / 3
                if self.leads:
                    pause_seconds = min(pause_seconds, self._until - loop.time())
                await asyncio.sleep(max(pause_seconds, 0.05))
                try:
                    async with asyncio.timeout(self._leases.seconds):  # a network that is cut says nothing for long
                        await self.take()
                    self._trouble = ""
                except (StorageError, TimeoutError) as error:
                    why = str(error) or "the database does not answer"
                    if why != self._trouble:
                        _LOG.warning("cannot see who leads the site: %s", why)
                    self._trouble = why
                    if not self.leads:
                        LEADING.set(0)
                        self._tell()
        finally:
            self._until = float("-inf")
            LEADING.set(0)
            try:
                await self._leases.give_up(_NAME)
            except StorageError as error:
                _LOG.warning("the lead is not given up, but runs out: %s", error)

    async def led(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does the work whenever, and only while, this seeder leads; until cancelled. Raises what it raises."""
        while True:
            if not self.leads:
                await self._changed.wait()
                continue
            working = asyncio.ensure_future(work())
            try:
                while self.leads and not working.done():
                    changing = asyncio.ensure_future(self._changed.wait())
                    left_seconds = self._until - asyncio.get_running_loop().time()
                    try:
                        await asyncio.wait(
                            [working, changing], timeout=left_seconds, return_when=asyncio.FIRST_COMPLETED
                        )
                    finally:
                        changing.cancel()
            finally:
                working.cancel()
                await asyncio.wait([working])
            if not working.cancelled():
                working.result()
                return

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
