"""Tells the site's seeders what to seed and what to let go (the only owner of aiohttp's client here)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import aiohttp

from imagedist.oci.digest import Digest
from imagedist.oci.retries import TransientError, retrying

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
_AT_ONCE = 16
_MAX_QUEUED = 4096
_FIRST_TRY_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""How long a seeder that did not answer is not asked to let go: making room asks for blob after blob."""


class Seeds:
    """``PUT`` and ``DELETE /site/v1/seeds/{digest}`` at every seeder.

    A seeder that is down is told again a bounded number of times; after its restart it reads the torrents folder.
    """

    def __init__(
        self, seeders: Sequence[str], token: str | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seeders = tuple(seeders)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[asyncio.Task[None], Digest] = {}
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._failing: dict[str, str] = {}

    async def put(self, digest: Digest, torrent: bytes) -> None:
        """Tells all seeders. Returns when they know, or after a moment: the rest goes on in the background.

        Nodes get the torrent after this, so that their first announce already finds a seed.
        """
        if len(self._tasks) >= _MAX_QUEUED:
            log.warning("seeders are behind: they will find %s at their next start", digest)
            return
        tasks = [asyncio.create_task(self._put(seeder, digest, torrent)) for seeder in self._seeders]
        for task in tasks:
            self._tasks[task] = digest
            task.add_done_callback(self._tasks.pop)
        if tasks:
            await asyncio.wait(tasks, timeout=_FIRST_TRY_SECONDS)

    async def delete(self, digest: Digest) -> bool:
        """Whether every seeder has let go of the blob, so that it may be unlinked."""
        for task, put in self._tasks.items():
            if put == digest:
                task.cancel()  # or a late repetition would have it seeded again
        answers = await asyncio.gather(*(self._delete(seeder, digest) for seeder in self._seeders))
        return all(answers)

    def failing(self) -> list[str]:
        """The seeders that did not answer when they were last told something, and what they did instead."""
        return [f"seeder {seeder} {what}" for seeder, what in self._failing.items()]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _put(self, seeder: str, digest: Digest, torrent: bytes) -> None:
        async def attempt() -> None:
            status = await self._ask("PUT", seeder, digest, torrent)
            if status >= 300:
                raise TransientError(f"answered {status}")

        try:
            async with self._slots:
                await retrying()(attempt)
        except TransientError as error:
            log.warning("seeder %s does not seed %s: %s", seeder, digest, error)

    async def _delete(self, seeder: str, digest: Digest) -> bool:
        if self._clock() < self._silent_until.get(seeder, 0.0):
            return False
        try:
            status = await self._ask("DELETE", seeder, digest, None)
        except TransientError as error:
            self._silent_until[seeder] = self._clock() + SILENT_SECONDS
            log.warning("seeder %s may still seed %s, so it stays: %s", seeder, digest, error)
            return False
        return status < 300 or status == 404

    async def _ask(self, method: str, seeder: str, digest: Digest, body: bytes | None) -> int:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        headers = self._headers | ({"Content-Type": "application/x-bittorrent"} if body is not None else {})
        url = f"{seeder}/site/v1/seeds/{digest}"
        try:
            async with self._session.request(method, url, data=body, headers=headers) as response:
                self._failing.pop(seeder, None)
                return response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            self._failing[seeder] = f"does not answer: {error or type(error).__name__}"
            raise TransientError(self._failing[seeder]) from error
