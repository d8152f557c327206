"""One backup kept up: our own journal followed, the tags that are for it sent, oldest first, several at a time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial

from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import ImagedistError, UnacceptableError
from imagedist.metrics import BACKUP_TAGS
from imagedist.oci.platform import Platform
from imagedist.site_sync import DestinationStatus, TaskStatus
from seeder.backup.image import Images
from seeder.backup.judge import Judge
from seeder.backup.registry import BackupRegistry
from seeder.backup.rows import Rows, Send
from seeder.sync.bring import Progress
from seeder.sync.gather import all_of
from seeder.sync.work import MAX_ATTEMPTS, platforms_of
from seeder.tags import TagJournal

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 300.0
_PAGE = 1000
_WAIT_SECONDS = 25.0
_CAP_SECONDS = 5.0
"""How late an hour's cap may count."""
_LOOK_SECONDS = 10.0
"""What another seeder of the site has found out is seen so late."""
_SHOWN = 100
_CHECKS_AT_ONCE = 16

_Key = tuple[str, str]


class BackupWork:
    """
    Args:
        cap: bytes per second at this moment; None: no cap.
    """

    def __init__(
        self,
        registry: BackupRegistry,
        rows: Rows,
        journal: TagJournal,
        judge: Judge,
        images: Images,
        rate: ChangingRate,
        cap: Callable[[], int | None],
    ) -> None:
        self.registry = registry
        self.rows = rows
        self.judge = judge
        self._journal = journal
        self._images = images
        self._rate = rate
        self._cap = cap
        self._under_way: dict[_Key, tuple[asyncio.Task[None], Progress]] = {}
        self._called = asyncio.Event()
        self._error = ""

    def __repr__(self) -> str:
        return f"<BackupWork {self.registry.name}: {len(self._under_way)} under way>"

    def call(self) -> None:
        """There may be something to do."""
        self._called.set()

    async def run(self) -> None:
        """For ever; when cancelled, what is under way stops, and stays to be done."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._work())
            group.create_task(self._keep_cap())

    async def check(self) -> int:
        """Asks for every tag that was sent whether it is there; what is not is due. How many that are.

        Raises:
            SourceError: the registry does not answer. StorageError.
        """
        gone = 0
        sent = await self.rows.done()
        for at in range(0, len(sent), _CHECKS_AT_ONCE):
            some = sent[at : at + _CHECKS_AT_ONCE]
            there = await all_of([self.registry.means(name, tag) for name, tag, _ in some])
            for (name, tag, digest), found in zip(some, there, strict=True):
                if found != digest:
                    await self.rows.undo(name, tag, digest)
                    gone += 1
        self.call()
        return gone

    async def status(self, sequence: int) -> DestinationStatus:
        """
        Args:
            sequence: our journal's last. Raises StorageError.
        """
        waiting, failed = await self.rows.counts()
        known = await self.rows.cursor((await self._journal.identity()).journal)
        return DestinationStatus(
            site=self.registry.name,
            is_backup=True,
            sequence=known,
            waiting=waiting,
            failed=failed,
            is_behind=waiting > 0 or known < sequence,
            error=self._error,
        )

    async def statuses(self) -> list[TaskStatus]:
        """The queue's beginning. Raises StorageError."""
        return [self._status(each) for each in await self.rows.shown(_SHOWN)]

    async def _follow(self) -> None:
        journal = (await self._journal.identity()).journal
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                known = await self.rows.cursor(journal)
                records = await self._journal.wait_newer(known, _PAGE, _WAIT_SECONDS)
                if records:
                    await self.rows.take_in(journal, records[-1].sequence, await self.judge.news(records))
                    self.call()
            except ImagedistError as error:
                self._note(error, "cannot tell what is for it")
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            else:
                pause_seconds = _FIRST_PAUSE_SECONDS

    async def _keep_cap(self) -> None:
        while True:
            self._rate.set(self._cap())
            await asyncio.sleep(_CAP_SECONDS)

    async def _work(self) -> None:
        try:
            while True:
                self._called.clear()
                try:
                    seconds = await self._start_due()
                except ImagedistError as error:
                    self._note(error, "its queue cannot be read")
                    seconds = _FIRST_PAUSE_SECONDS
                try:
                    async with asyncio.timeout(_LOOK_SECONDS if seconds is None else min(seconds, _LOOK_SECONDS)):
                        await self._called.wait()
                except TimeoutError:
                    pass
        finally:
            tasks = [task for task, _ in self._under_way.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_due(self) -> float | None:
        """Returns how many seconds nothing else is due; None: until somebody calls."""
        free = self.registry.table.images_at_once - len(self._under_way)
        for send in await self.rows.due(free, list(self._under_way)) if free else []:
            key, progress = (send.name, send.tag), Progress()
            task = asyncio.create_task(self._do(send, progress), name=f"backup of {send}")
            self._under_way[key] = task, progress
            task.add_done_callback(partial(self._landed, key))
        if len(self._under_way) == self.registry.table.images_at_once:
            return None
        return await self.rows.next_due() if not self._under_way else _FIRST_PAUSE_SECONDS

    def _landed(self, key: _Key, task: asyncio.Task[None]) -> None:
        del self._under_way[key]
        self._called.set()

    async def _do(self, send: Send, progress: Progress) -> None:
        try:
            await self._carry_out(send, progress)
            await self.rows.finish(send)
        except Exception as error:
            if not isinstance(error, ImagedistError):
                _LOG.exception("%s of %s failed", self.registry, send)
            BACKUP_TAGS.labels(outcome="failed").inc()
            await self._failed(send, error)
        else:
            self._error = ""
            BACKUP_TAGS.labels(outcome="set" if send.digest is not None else "deleted").inc()
            what = "has" if send.digest is not None else "no longer has"
            _LOG.info("%s %s %s (%d bytes sent)", self.registry, what, send, progress.bytes_done)

    async def _carry_out(self, send: Send, progress: Progress) -> None:
        if send.digest is None:
            there = await self.registry.means(send.name, send.tag)
            if there is not None:
                await self.registry.delete_tag(send.name, send.tag, there, await self.rows.going(send.name))
            return
        await self._images.send(send.name, send.tag, send.digest, await self._platforms(send), progress)

    async def _platforms(self, send: Send) -> frozenset[Platform]:
        """Those that this site has of the image; none: all."""
        record = await self._journal.find(send.name, send.tag)
        if record is None or record.digest != send.digest:
            return frozenset()
        meaning, own = record.meaning, self._journal.site
        return platforms_of(meaning, own) if meaning.origin == own or own in meaning.terms else frozenset()

    async def _failed(self, send: Send, error: Exception) -> None:
        is_last = send.attempts + 1 >= MAX_ATTEMPTS or isinstance(error, UnacceptableError)
        longest_seconds = min(_FIRST_PAUSE_SECONDS * 2**send.attempts, _LONGEST_PAUSE_SECONDS)
        again = None if is_last else random.uniform(0.5, 1.0) * longest_seconds
        if isinstance(error, UnacceptableError):
            _LOG.warning("%s: %s was not sent: %s", self.registry, send, error)
        else:
            self._note(error, f"{send} was not sent (attempt {send.attempts + 1})")
        try:
            await self.rows.fail(send, str(error) or repr(error), again)
        except ImagedistError as failure:
            _LOG.error("cannot note that %s was not sent: %s", send, failure)

    def _note(self, error: Exception, what: str) -> None:
        self._error = f"{what}: {error}"
        _LOG.warning("%s: %s", self.registry, self._error)

    def _status(self, send: Send) -> TaskStatus:
        running = self._under_way.get((send.name, send.tag))
        progress = running[1] if running is not None else Progress()
        return TaskStatus(
            name=send.name,
            tag=send.tag,
            digest=send.digest,
            source=self._journal.site,
            to=self.registry.name,
            state="running" if running is not None else "failed" if send.has_failed else "waiting",
            attempts=send.attempts,
            error=send.error,
            blobs=progress.blobs,
            blobs_done=progress.blobs_done,
            bytes_total=progress.bytes_total,
            bytes_done=progress.bytes_now,
        )
