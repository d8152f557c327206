"""The queue worked off: images brought in, oldest first, several at a time; each tag set when all of it is here."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import NamedTuple

from imagedist.errors import ImagedistError, UnacceptableError
from imagedist.metrics import SYNC_QUEUE, SYNC_TAGS
from imagedist.oci.platform import Platform
from imagedist.site_sync import SyncedTag, TaskStatus
from seeder.moves import Meaning
from seeder.sync.bring import Brings, Progress
from seeder.sync.ledger import Ledger
from seeder.sync.proxy import SiteProxy
from seeder.sync.queue import Task

_LOG = logging.getLogger(__name__)

MAX_ATTEMPTS = 20
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 300.0
"""More than an hour in all. A site that can be followed again, a schedule, or an operator begins anew."""
_LOOK_SECONDS = 1.0
"""What another seeder has queued, or does not hold any more, is seen so late."""
_SHOWN = 100


class _Running(NamedTuple):
    task: Task
    work: asyncio.Task[None]
    progress: Progress
    began_at: float


class Work:
    def __init__(self, ledger: Ledger, proxy: SiteProxy, brings: Brings, images_at_once: int) -> None:
        self._ledger = ledger
        self._proxy = proxy
        self._brings = brings
        self._images_at_once = images_at_once
        self._under_way: dict[int, _Running] = {}
        self._called = asyncio.Event()

    def call(self) -> None:
        """There may be something to do."""
        self._called.set()

    async def run(self) -> None:
        """For ever; when cancelled, what is under way stops, and stays in the queue."""
        try:
            while True:
                self._called.clear()
                try:
                    pause_seconds = await self._start_due()
                except ImagedistError as error:
                    _LOG.error("sync's queue cannot be read: %s", error)
                    pause_seconds = _FIRST_PAUSE_SECONDS
                await self._wait(pause_seconds)
        finally:
            tasks = [running.work for running in self._under_way.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def hold(self) -> None:
        """For ever: tells the other seeders that what is under way here is. What is theirs by now stops here."""
        if not self._ledger.queue.is_shared:
            return
        loop = asyncio.get_running_loop()
        held_at = loop.time()
        while True:
            await asyncio.sleep(self._ledger.queue.hold_seconds / 4)
            asked_at = loop.time()
            try:
                async with asyncio.timeout(
                    self._ledger.queue.hold_seconds / 2
                ):  # a network that is cut says nothing for long
                    held = await self._ledger.queue.hold()
                held_at = asked_at
            except (ImagedistError, TimeoutError) as error:
                _LOG.warning("cannot go on holding sync's tasks: %s", str(error) or "the database does not answer")
                if loop.time() + self._ledger.queue.hold_seconds / 4 < held_at + self._ledger.queue.hold_seconds:
                    continue
                held = set()
            for running in list(self._under_way.values()):
                if str(running.task) not in held and running.began_at < asked_at and not running.work.done():
                    _LOG.warning("%s is with another seeder by now", running.task)
                    running.work.cancel()

    async def statuses(self) -> list[TaskStatus]:
        """The queue's beginning. Raises StorageError."""
        return [self._status(task) for task in await self._ledger.queue.tasks(_SHOWN)]

    async def _start_due(self) -> float | None:
        """Returns how many seconds nothing else is due; None: until somebody calls."""
        waiting, failed = await self._ledger.queue.counts()
        SYNC_QUEUE.labels(state="waiting").set(waiting)
        SYNC_QUEUE.labels(state="failed").set(failed)
        free = self._images_at_once - len(self._under_way)
        # one at a time of each tag: what is wanted last is set last
        busy = [str(running.task) for running in self._under_way.values()]
        for task in await self._ledger.queue.due(free, busy) if free else []:
            progress = Progress()
            working = asyncio.create_task(self._do(task, progress), name=f"sync of {task}")
            self._under_way[task.number] = _Running(task, working, progress, asyncio.get_running_loop().time())
            working.add_done_callback(partial(self._landed, task.number))
        if len(self._under_way) == self._images_at_once:
            return None
        pause_seconds = await self._ledger.queue.next_due() if not self._under_way else _FIRST_PAUSE_SECONDS
        if not self._ledger.queue.is_shared:
            return pause_seconds
        return _LOOK_SECONDS if pause_seconds is None else max(min(pause_seconds, _LOOK_SECONDS), _FIRST_PAUSE_SECONDS)

    def _landed(self, number: int, work: asyncio.Task[None]) -> None:
        del self._under_way[number]
        self._called.set()

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._called.wait()
        except TimeoutError:
            pass

    async def _do(self, task: Task, progress: Progress) -> None:
        try:
            await self._try(task, progress)
        finally:
            try:
                await self._ledger.queue.release(task)
            except ImagedistError as error:
                _LOG.warning("%s is not released, but will be: %s", task, error)

    async def _try(self, task: Task, progress: Progress) -> None:
        try:
            await self._carry_out(task, progress)
            if await self._ledger.finish(task):
                is_set = task.meaning.digest is not None
                SYNC_TAGS.labels(outcome="set" if is_set else "deleted").inc()
                _LOG.info("%s %s (%d bytes)", task, "is set" if is_set else "is deleted", progress.bytes_done)
        except Exception as error:
            if not isinstance(error, ImagedistError):
                _LOG.exception("sync of %s failed", task)
            SYNC_TAGS.labels(outcome="failed").inc()
            await self._failed(task, error)

    async def _carry_out(self, task: Task, progress: Progress) -> None:
        meaning = task.meaning
        upstream, _, repository = task.name.partition("/")
        if meaning.digest is None:
            await self._proxy.drop_tag(upstream, repository, task.tag)
            return
        platforms = platforms_of(meaning, self._ledger.site)
        skipped = await self._brings.bring(upstream, repository, meaning.digest, platforms, progress)
        is_answer = meaning.origin != self._ledger.site
        if not await self._ledger.queue.wants(task):
            return
        kept = SyncedTag(digest=meaning.digest, is_answer=is_answer, skipped=skipped)
        await self._proxy.put_tag(upstream, repository, task.tag, kept)

    async def _failed(self, task: Task, error: Exception) -> None:
        is_last = task.attempts + 1 >= MAX_ATTEMPTS or isinstance(error, UnacceptableError)
        longest_seconds = min(_FIRST_PAUSE_SECONDS * 2**task.attempts, _LONGEST_PAUSE_SECONDS)
        again = None if is_last else random.uniform(0.5, 1.0) * longest_seconds
        _LOG.warning("%s is not synced (attempt %d): %s", task, task.attempts + 1, error)
        try:
            await self._ledger.queue.fail(task, str(error) or repr(error), again)
        except ImagedistError as failure:
            _LOG.error("cannot note that the sync of %s failed: %s", task, failure)

    def _status(self, task: Task) -> TaskStatus:
        running = self._under_way.get(task.number)
        progress = running.progress if running is not None else Progress()
        state = "running" if running is not None else "failed" if task.has_failed else "waiting"
        return TaskStatus(
            name=task.name,
            tag=task.tag,
            digest=task.meaning.digest,
            source=task.source,
            state=state,
            attempts=task.attempts,
            error=task.error,
            blobs=progress.blobs,
            blobs_done=progress.blobs_done,
            bytes_total=progress.bytes_total,
            bytes_done=progress.bytes_now,
        )


def platforms_of(meaning: Meaning, site: str) -> frozenset[Platform]:
    """Those that a site needs of an image; none: all. Where the tag comes from: what any of the sites needs."""
    terms = list(meaning.terms.values()) if meaning.origin == site else [meaning.terms[site]]
    if any(not each.platforms for each in terms):
        return frozenset()
    return frozenset(Platform.parse(text) for each in terms for text in each.platforms)
