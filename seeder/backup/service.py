"""The site's backups as a whole: begun when the rules are known, asked how far they are, read by the proxies."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path

from imagedist.config import SeederConfig, read_secret
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import ConfigError, ImagedistError, NotFoundError
from imagedist.site_sync import BackupSource, DestinationStatus, TaskStatus
from seeder.backup.image import Images
from seeder.backup.judge import Judge
from seeder.backup.registry import BackupRegistry
from seeder.backup.rows import News, Rows
from seeder.backup.work import BackupWork
from seeder.database import Database
from seeder.sync.bring import Brings
from seeder.sync.caps import cap
from seeder.sync.facts import Facts
from seeder.sync.proxy import SiteProxy
from seeder.sync.rules import Rule
from seeder.tags import TagJournal

_LOG = logging.getLogger(__name__)


class Backups:
    """
    Args:
        now: the time of day, in the site's time zone.

    Raises:
        ConfigError: a backup's files cannot be read.
    """

    def __init__(
        self,
        config: SeederConfig,
        database: Database,
        journal: TagJournal,
        proxy: SiteProxy,
        brings: Brings,
        now: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._database = database
        self._journal = journal
        self._proxy = proxy
        self._brings = brings
        self._now = now
        self.registries = {name: BackupRegistry(name, table) for name, table in config.backups.items()}
        self._works: dict[str, BackupWork] = {}

    async def close(self) -> None:
        for registry in self.registries.values():
            await registry.close()

    def begin(self, rules: Sequence[Rule], facts: Facts) -> list[BackupWork]:
        """Those that rules name; each is to be run. Once, when the rules' registries are known."""
        for name, registry in self.registries.items():
            naming = [rule for rule in rules if name in rule.table.to]
            if naming:
                self._works[name] = self._work(registry, naming, facts)
        return list(self._works.values())

    def call(self) -> None:
        """There may be something to do."""
        for work in self._works.values():
            work.call()

    async def run_now(self) -> None:
        """Whether all that was sent is there is asked, and what has failed is due again. Raises StorageError."""
        for work in self._works.values():
            await work.rows.retry()
            try:
                if gone := await work.check():
                    _LOG.warning("%s has lost %d tags, which are sent again", work.registry, gone)
            except ImagedistError as error:
                _LOG.warning("%s cannot be looked through: %s", work.registry, error)

    async def destinations(self, sequence: int) -> list[DestinationStatus]:
        """
        Args:
            sequence: our journal's last. Raises StorageError.
        """
        return [await work.status(sequence) for work in self._works.values()]

    async def statuses(self) -> list[TaskStatus]:
        """Raises StorageError."""
        return [each for work in self._works.values() for each in await work.statuses()]

    async def to_send(self, backup: str) -> AsyncIterator[News]:
        """What a backup is to have, and was not sent yet. Raises StorageError, and as ``Judge.news``."""
        work = self._works.get(backup)
        if work is None:
            return
        for send in await work.rows.shown(10_000):
            yield News(send.name, send.tag, 0, send.digest)
        since = await work.rows.cursor((await self._journal.identity()).journal)
        while records := await self._journal.newer_than(since, 1000):
            for news in await work.judge.news(records):
                yield news
            since = records[-1].sequence

    def sources(self) -> list[BackupSource]:
        """What the site's proxies read them with. Raises ConfigError: a file cannot be read now."""
        return [
            BackupSource(
                name=name,
                registry=table.registry,
                prefix=table.prefix,
                cost=table.cost,
                username=table.username,
                password=read_secret(table.password_file),
                ca=_text(table.ca_file),
            )
            for name, table in self._config.backups.items()
        ]

    def of(self, name: str) -> BackupRegistry:
        """Raises NotFoundError: there is none of that name."""
        if name not in self.registries:
            known = ", ".join(sorted(self.registries)) or "none"
            raise NotFoundError(f"no backup {name!r}; this site has: {known}")
        return self.registries[name]

    def _work(self, registry: BackupRegistry, rules: Sequence[Rule], facts: Facts) -> BackupWork:
        rows = Rows(self._database, registry.name)

        def cap_now() -> int | None:
            return cap(registry.table, self._now())

        rate = ChangingRate(cap_now())
        store: Path = self._config.seeder.site_blobs
        images = Images(registry, rows, self._proxy, self._brings, store, rate)
        judge = Judge(registry.name, rules, self._journal, rows, facts)
        return BackupWork(registry, rows, self._journal, judge, images, rate, cap_now)


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
