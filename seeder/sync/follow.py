"""Other sites' journals followed: by number, from where it was left, however long somebody was away."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from imagedist.errors import ImagedistError
from imagedist.metrics import SYNC_FOLLOW_FAILING
from imagedist.site_sync import FollowStatus
from seeder.sync.ledger import Ledger
from seeder.sync.sibling import Sibling, records_of

_LOG = logging.getLogger(__name__)

_WAIT_SECONDS = 25
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0


class Follow:
    """One site's journal.

    Args:
        told: called when something came in that is to be done.
        back: called when the site answers again after it had not.
    """

    def __init__(self, sibling: Sibling, ledger: Ledger, told: Callable[[], None], back: Callable[[], None]) -> None:
        self._sibling = sibling
        self._ledger = ledger
        self._told = told
        self._back = back
        self._journal = ""
        self._sequence = 0
        self._told_at: float | None = None
        self._error = ""
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """It is asked at once, if it is left alone for a while."""
        self._hurried.set()

    def answers(self) -> None:
        """It was heard of just now: what failed before is tried again."""
        if self._error:
            self.hurry()

    def status(self) -> FollowStatus:
        return FollowStatus(site=self._sibling.name, sequence=self._sequence, told_at=self._told_at, error=self._error)

    async def run(self) -> None:
        """For ever."""
        failing = SYNC_FOLLOW_FAILING.labels(site=self._sibling.name)
        failing.set(0)
        self._journal, self._sequence = await self._ledger.followed(self._sibling.name)
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._step()
            except ImagedistError as error:
                if str(error) != self._error:
                    _LOG.warning("cannot follow site %s: %s", self._sibling.name, error)
                self._error = str(error)
                failing.set(1)
                await self._pause(pause_seconds * random.uniform(0.5, 1.0))
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
                continue
            if self._error:
                _LOG.info("site %s can be followed again", self._sibling.name)
                self._error = ""
                self._back()
            failing.set(0)
            pause_seconds = _FIRST_PAUSE_SECONDS

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        wait_seconds = 0 if self._error else _WAIT_SECONDS
        page = await self._sibling.page(self._sequence, wait_seconds, self._journal)
        self._told_at = time.time()
        self._journal = page.journal
        known = await self._ledger.cursor(self._sibling.name, page.journal)
        if known != self._sequence:
            self._sequence = known  # it is another journal than that whose numbers we know
            return
        if not page.tags:
            if loop.time() - asked_at < _FIRST_PAUSE_SECONDS:  # it did not hold the answer back: it has too much to do
                await self._pause(_FIRST_PAUSE_SECONDS)
            return
        count = await self._ledger.note_page(self._sibling.name, page.journal, page.sequence, records_of(page))
        self._sequence = page.sequence
        if count:
            _LOG.info("site %s told %d tags", self._sibling.name, count)
            self._told()

    async def _pause(self, seconds: float) -> None:
        self._hurried.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
        except TimeoutError:
            pass
