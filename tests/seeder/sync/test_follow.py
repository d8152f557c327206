"""Following another site's journal, when that site behaves oddly."""

from __future__ import annotations

import asyncio
from typing import Any

from imagedist.errors import SourceError
from seeder.sync.follow import Follow
from seeder.tag_routes import JournalPage


class Hasty:
    """A site, and our ledger of it: it never holds an answer back, and has no news."""

    name = "sh"

    def __init__(self) -> None:
        self.asked = 0

    async def page(self, since: int, wait_seconds: int, journal: str) -> JournalPage:
        self.asked += 1
        await asyncio.sleep(0)
        return JournalPage(site=self.name, journal="one", sequence=since, tags=())

    async def followed(self, site: str) -> tuple[str, int]:
        return "", 0

    async def cursor(self, site: str, journal: str) -> int:
        return 0


async def test_a_site_that_does_not_hold_its_answers_back_is_not_asked_without_end() -> None:
    hasty: Any = Hasty()
    following = asyncio.create_task(Follow(hasty, hasty, lambda: None, lambda: None).run())
    for _ in range(1000):
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait([following])
    assert hasty.asked == 1


class Away(Hasty):
    """A site that does not answer."""

    async def page(self, since: int, wait_seconds: int, journal: str) -> JournalPage:
        self.asked += 1
        raise SourceError("it does not answer")


async def test_a_site_that_was_away_is_asked_again_as_soon_as_it_is_heard_of() -> None:
    away: Any = Away()
    follow = Follow(away, away, lambda: None, lambda: None)
    following = asyncio.create_task(follow.run())
    async with asyncio.timeout(60):
        while away.asked < 12:  # by itself it would be asked so often within ten minutes
            follow.answers()
            await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait([following])
