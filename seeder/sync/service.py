"""Sync as a whole: looks at the registry, follows other sites, works off the queue, says how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any, Self
from zoneinfo import ZoneInfo

from imagedist.config import SeederConfig, read_secret
from imagedist.errors import ConfigError, ImagedistError, OverloadedError
from imagedist.service import kept_up
from imagedist.service.repeats import Repeats
from imagedist.site.tls import site_tls
from imagedist.site_sync import (
    BackupList,
    ConflictStatus,
    DestinationStatus,
    FollowStatus,
    RestoreOrder,
    RestorePlan,
    RestoreStatus,
    RuleStatus,
    SyncPlan,
    SyncStatus,
)
from seeder.backup.restore import Restore
from seeder.backup.service import Backups
from seeder.database import Database
from seeder.leading import Leading
from seeder.leases import Leases
from seeder.sync.bring import Brings
from seeder.sync.caps import cap
from seeder.sync.facts import Facts
from seeder.sync.follow import Follow
from seeder.sync.ledger import Ledger
from seeder.sync.looking import Looking
from seeder.sync.plan import Planner
from seeder.sync.proxy import SiteProxy
from seeder.sync.rules import Rule
from seeder.sync.scan import Scans
from seeder.sync.sibling import Sibling
from seeder.sync.webhooks import Hint
from seeder.sync.work import Work
from seeder.tags import TagJournal

_LOG = logging.getLogger(__name__)

_ASK_AGAIN_SECONDS = 2.0
_DESTINATION_SECONDS = 5.0
_SHOWN_CONFLICTS = 100
_STUCK_ATTEMPTS = 3
_SHOWN_ERRORS = 5


class Sync:
    """One site's; use it as a context.

    Args:
        now: the time of day. Injected by tests.
    """

    def __init__(
        self,
        config: SeederConfig,
        database: Database,
        journal: TagJournal,
        leading: Leading,
        leases: Leases,
        *,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        settings = config.seeder
        zone = ZoneInfo(settings.timezone) if settings.timezone else None
        self._config = config
        self._now = now or (lambda: datetime.now(zone).astimezone(zone))
        self._journal = journal
        self._leading = leading
        self._leases = leases
        tls = site_tls(settings)
        self._proxy = SiteProxy(settings.site_proxies, settings.site, read_secret(settings.site_token_file), tls)
        self._ledger = Ledger(database, journal, hold_seconds=leases.seconds)
        self._siblings = {name: Sibling(name, table, settings.site, tls) for name, table in config.sites.items()}
        transfer = config.transfer
        self._brings = Brings(self._proxy, transfer.blobs_at_once, self._cap)
        self._work = Work(self._ledger, self._proxy, self._brings, transfer.images_at_once)
        self._follows = [
            Follow(sibling, self._ledger, self._work.call, self._begin_anew) for sibling in self._siblings.values()
        ]
        self._backups = Backups(config, database, journal, self._proxy, self._brings, self._now)
        self._looking: Looking | None = None
        self._scans: Scans | None = None
        self._rules: list[Rule] = []
        self._why_not = ""
        self._repeats = Repeats()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._config.seeder.site_proxies:  # else nobody could fetch: siblings are for misses alone
            self._run(self._look, "sync looks")
            self._run(self._work.run, "sync works")
            self._run(self._work.hold, "sync holds its tasks")
            self._run(partial(self._leading.led, self._begin_to_look), "sync looks as the leader")
            for follow in self._follows:
                self._run(partial(self._leading.led, follow.run), "sync follows")
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._proxy.close()
        await self._backups.close()
        for sibling in self._siblings.values():
            await sibling.close()

    async def run_now(self, *, may_delete: bool = False) -> None:
        """The registry is looked through, sites are asked, and what has failed is due again. Returns at once.

        Args:
            may_delete: even most tags of a repository at a time.

        Raises:
            StorageError. OverloadedError: not ready yet.
        """
        looking, _ = self._ready()
        await self._ledger.retry()
        looking.all_now(may_delete=may_delete)
        for follow in self._follows:
            follow.hurry()
        self._work.call()
        self._run(self._backups.run_now, "backups are looked through")

    async def plan(self) -> SyncPlan:
        """Raises StorageError. OverloadedError: not ready yet."""
        _, scans = self._ready()
        return await Planner(self._ledger, self._proxy, scans, self._rules, self._siblings, self._backups).plan()

    def backups(self) -> BackupList:
        """What the site's proxies read them with. Raises ConfigError: a file cannot be read."""
        return BackupList(backups=tuple(self._backups.sources()))

    async def restore(self, order: RestoreOrder) -> RestorePlan:
        """Finds out what a backup has that is not here, and has it brought, unless that is all that was asked.

        Raises:
            NotFoundError: no such backup. InputError: a bad pattern. SourceError: it does not answer. StorageError.
        """
        source = self._siblings.get(order.source) or self._backups.of(order.source)
        restore = Restore(source, self._ledger, self._proxy, self._config.seeder.site_blobs)
        wanted, plan = await restore.find(order.repositories)
        if wanted and not order.is_dry:
            await self._ledger.restore(order.source, {(each.name, each.tag): each.meaning for each in wanted})
            self._work.call()
        return plan

    async def restoring(self, source: str) -> RestoreStatus:
        """Raises StorageError."""
        tasks = await self._ledger.queue.from_source(source)
        stuck = [task for task in tasks if task.has_failed or task.attempts >= _STUCK_ATTEMPTS]
        running = [each for each in await self._work.statuses() if each.source == source]
        return RestoreStatus(
            source=source,
            waiting=len(tasks),
            stuck=len(stuck),
            errors=tuple(f"{task}: {task.error}" for task in stuck[:_SHOWN_ERRORS]),
            bytes_total=sum(each.bytes_total for each in running),
            bytes_done=sum(each.bytes_done for each in running),
        )

    async def hint(self, upstream: str | None, hints: list[Hint]) -> int:
        """What a webhook told; how many of its places rules cover.

        Args:
            upstream: which registry has sent it; None: the proxy's default upstream.

        Raises:
            OverloadedError: not now. SourceError: the proxy does not answer.
        """
        looking, _ = self._ready()
        named = upstream or (await self._proxy.upstreams()).default
        self._check_source(named)
        return sum(looking.hint(named, hint) for hint in hints) if named is not None else 0

    def _check_source(self, upstream: str | None) -> None:
        """A webhook's URL with a wrong name in it would be answered 202 for ever."""
        names = sorted({rule.upstream for rule in self._rules})
        if upstream in names:
            return
        said = f"a webhook says from={upstream}, and no [[sync]] rule is of it: expected {' or '.join(names) or 'none'}"
        if (left_out := self._repeats.due(said)) is not None:
            _LOG.warning("%s%s", said, left_out)

    async def status(self, *, with_destinations: bool) -> SyncStatus:
        """Raises StorageError."""
        waiting, failed = await self._ledger.queue.counts()
        sequence = await self._journal.last_sequence()
        has_rules = bool(self._config.sync)
        return SyncStatus(
            site=self._journal.site,
            journal=(await self._journal.identity()).journal,
            sequence=sequence,
            is_scanning=self._looking.is_busy if self._looking is not None else has_rules,
            waiting=waiting,
            failed=failed,
            bytes_per_second=self._cap(),
            rules=tuple(self._looking.statuses() if self._looking is not None else self._unready_rules()),
            follows=tuple(await self._followed()),
            queue=(*await self._work.statuses(), *await self._backups.statuses()),
            conflicts=tuple(
                ConflictStatus(**each._asdict()) for each in (await self._ledger.conflicts())[:_SHOWN_CONFLICTS]
            ),
            destinations=tuple(await self._destinations(sequence)) if with_destinations else (),
        )

    async def _followed(self) -> list[FollowStatus]:
        """While another seeder leads, how far it is."""
        statuses = [follow.status() for follow in self._follows]
        if self._leading.leads:
            return statuses
        sequences = [(await self._ledger.followed(each.site))[1] for each in statuses]
        return [
            FollowStatus(site=each.site, sequence=sequence) for each, sequence in zip(statuses, sequences, strict=True)
        ]

    async def _begin_to_look(self) -> None:
        """What was pushed while nobody led is found."""
        if self._looking is not None:
            self._looking.all_now()
        await asyncio.Event().wait()

    def _cap(self) -> int | None:
        return cap(self._config.transfer, self._now())

    def _begin_anew(self) -> None:
        """A site is back: what failed for want of it may succeed."""
        self._run(self._retry, "sync begins anew")

    async def _retry(self) -> None:
        await self._ledger.retry()
        self._work.call()

    async def _look(self) -> None:
        """Rules need the names of the proxy's registries, so it must have answered once."""
        while self._looking is None:
            try:
                self._rules = await self._resolved()
            except ImagedistError as error:
                if str(error) != self._why_not:
                    _LOG.warning("sync rules wait: %s", error)
                self._why_not = str(error)
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
                continue
            self._scans = Scans(self._proxy, self._ledger, self._rules, self._leases)
            self._looking = Looking(self._rules, self._scans, self._now, self._work.call, lambda: self._leading.leads)
            for backup in self._backups.begin(self._rules, Facts(self._proxy)):
                self._run(partial(self._leading.led, backup.run), f"backup {backup.registry.name}")
        await self._looking.run()

    async def _resolved(self) -> list[Rule]:
        known = await self._proxy.upstreams()
        rules = []
        for number, table in enumerate(self._config.sync):
            upstream = table.source or known.default
            names = ", ".join(sorted(known.upstreams))
            if upstream is None:
                raise ConfigError(f"sync.{number} needs from: the proxy has no default upstream; it knows: {names}")
            if upstream not in known.upstreams:
                raise ConfigError(
                    f"bad value for sync.{number}.from: {upstream!r} is no upstream of this site's proxy: add "
                    f"[upstreams.{upstream}] there, or name one of: {names}"
                )
            rules.append(Rule(number, table, upstream))
        return rules

    def _ready(self) -> tuple[Looking, Scans]:
        if self._looking is None or self._scans is None:
            if not self._config.seeder.site_proxies:
                raise ConfigError("sync needs this site's proxy: give seeder.site_proxies")
            raise OverloadedError(f"sync is not ready: {self._why_not or 'the site proxy has not answered yet'}")
        return self._looking, self._scans

    def _unready_rules(self) -> list[RuleStatus]:
        return [
            RuleStatus(
                number=number,
                repositories=table.repositories,
                upstream=table.source or "",
                to=table.to,
                error=self._why_not or "waiting for the site's proxy",
            )
            for number, table in enumerate(self._config.sync)
        ]

    async def _destinations(self, sequence: int) -> list[DestinationStatus]:
        names = sorted({name for table in self._config.sync for name in table.to} & self._siblings.keys())
        sites = await asyncio.gather(*(self._destination(name, sequence) for name in names))
        return [*sites, *await self._backups.destinations(sequence)]

    async def _destination(self, name: str, sequence: int) -> DestinationStatus:
        try:
            async with asyncio.timeout(_DESTINATION_SECONDS):
                status = await self._siblings[name].status()
        except (ImagedistError, TimeoutError) as error:
            return DestinationStatus(site=name, error=str(error) or "it does not answer")
        for follow in self._follows:
            if follow.status().site == name:
                follow.answers()
        ours = next((each for each in status.follows if each.site == self._journal.site), None)
        if ours is None:
            why_not = f"site {name} does not follow this one: add [sites.{self._journal.site}] to its seeder's file"
            return DestinationStatus(site=name, waiting=status.waiting, failed=status.failed, error=why_not)
        return DestinationStatus(
            site=name,
            sequence=ours.sequence,
            waiting=status.waiting,
            failed=status.failed,
            is_behind=ours.sequence < sequence or status.waiting > 0,
            error=ours.error,
        )

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = asyncio.create_task(kept_up(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
