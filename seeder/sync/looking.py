"""When the site's own registry is looked through: at start, by schedule, by hand, and where webhooks say."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from imagedist.errors import ImagedistError, OverloadedError
from imagedist.site_sync import RuleStatus
from seeder.sync.rules import Rule
from seeder.sync.scan import Scans
from seeder.sync.webhooks import Hint

_LOG = logging.getLogger(__name__)

_AT_ONCE = 4
_MAX_HINTS = 10_000
_AGAIN_SECONDS = 30.0
"""After the registry could not be asked."""
_MAX_AGAIN = 10
_SETTLED_SECONDS = 2.0
"""docker-registry notifies of a manifest before it has set the tag (2.8: both in one PUT, 4 ms were seen between)."""
_LONGEST_SLEEP_SECONDS = 60.0

_Place = tuple[str, str, str | None]


class _Look(NamedTuple):
    """``failures``: of earlier ones. ``is_second``: the first one found nothing new."""

    failures: int = 0
    is_second: bool = False


class Looking:
    """
    Args:
        now: in the site's time zone.
        found: called when something has moved.
        leads: whether schedules are this seeder's business.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        scans: Scans,
        now: Callable[[], datetime],
        found: Callable[[], None],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._rules = rules
        self._scans = scans
        self._now = now
        self._found = found
        self._leads = leads
        self._hints: dict[_Place, _Look] = {}
        self._hinted = asyncio.Event()
        self._called = asyncio.Event()
        self._wanted: set[int] = {rule.number for rule in rules} if leads() else set()
        self._may_delete: set[int] = set()
        self._busy = 0
        self._scanned_at: dict[int, float] = {}
        self._tags: dict[int, dict[str, int]] = {}
        self._errors: dict[int, str] = {}
        self._next_at: dict[int, datetime] = {}
        for rule in rules:
            self._plan_next(rule)

    @property
    def is_busy(self) -> bool:
        """Whether something is being looked at, or will be at once."""
        return bool(self._busy or self._hints or self._wanted)

    def all_now(self, *, may_delete: bool = False) -> None:
        """Every rule's registry is looked through.

        Args:
            may_delete: this once most tags of a repository may go.
        """
        if may_delete:
            self._may_delete.update(rule.number for rule in self._rules)
        self._wanted.update(rule.number for rule in self._rules)
        self._called.set()

    def hint(self, upstream: str, hint: Hint) -> bool:
        """A webhook's: whether a rule covers the repository. If nothing is new there, it is looked at once more.

        Raises:
            OverloadedError: too many wait.
        """
        if not self._scans.covers(upstream, hint.repository):
            return False
        if len(self._hints) >= _MAX_HINTS:
            raise OverloadedError(f"{_MAX_HINTS} notifications wait already: send this one again later")
        self._hints[(upstream, hint.repository, hint.tag)] = _Look()
        self._hinted.set()
        return True

    def statuses(self) -> list[RuleStatus]:
        return [self._status(rule) for rule in self._rules]

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._follow_hints())
            group.create_task(self._follow_schedules())

    async def _follow_hints(self) -> None:
        while True:
            if not self._hints:
                self._hinted.clear()
                await self._hinted.wait()
                continue
            place, look = next(iter(self._hints.items()))
            self._busy += 1
            del self._hints[place]
            try:
                has_moved = await self._scans.scan(*place)
                await self._count(*place[:2])
                if has_moved:
                    self._found()
                elif not look.is_second:
                    self._later(_SETTLED_SECONDS, place, look._replace(is_second=True))
            except ImagedistError as error:
                self._note_failure(place, look, error)
            finally:
                self._busy -= 1

    async def _count(self, upstream: str, repository: str) -> None:
        """Of every rule that was looked through and has the repository. Raises StorageError."""
        count = await self._scans.count(upstream, repository)
        for rule in self._rules:
            if rule.number in self._tags and rule.has_repository(upstream, repository):
                self._tags[rule.number][repository] = count

    def _note_failure(self, place: _Place, look: _Look, error: ImagedistError) -> None:
        upstream, repository, tag = place
        _LOG.warning("cannot look at %s/%s:%s: %s", upstream, repository, tag or "*", error)
        for rule in self._rules:
            if rule.has_repository(upstream, repository):
                self._errors[rule.number] = str(error)
        if look.failures < _MAX_AGAIN:
            self._later(_AGAIN_SECONDS, place, look._replace(failures=look.failures + 1))

    def _later(self, seconds: float, place: _Place, look: _Look) -> None:
        asyncio.get_running_loop().call_later(seconds, self._again, place, look)

    def _again(self, place: _Place, look: _Look) -> None:
        if len(self._hints) < _MAX_HINTS:
            self._hints.setdefault(place, look)
            self._hinted.set()

    async def _follow_schedules(self) -> None:
        while True:
            now = self._now()
            for rule in self._rules:
                due = self._next_at.get(rule.number)
                if due is not None and due <= now:
                    if self._leads():
                        self._wanted.add(rule.number)
                    self._plan_next(rule)
            for rule in [each for each in self._rules if each.number in self._wanted]:
                await self._look_through(rule)
            await self._until_wanted()

    async def _look_through(self, rule: Rule) -> None:
        self._busy += 1
        self._wanted.discard(rule.number)
        tags: dict[str, int] = {}
        try:
            async for repository in self._scans.repositories(rule):
                if await self._scans.scan(rule.upstream, repository, may_delete=rule.number in self._may_delete):
                    self._found()
                tags[repository] = await self._scans.count(rule.upstream, repository)
            self._errors.pop(rule.number, None)
        except ImagedistError as error:
            _LOG.warning("sync.%d is not looked through: %s", rule.number, error)
            self._errors[rule.number] = str(error)
        finally:
            self._busy -= 1
            self._may_delete.discard(rule.number)
            self._tags[rule.number] = tags
            self._scanned_at[rule.number] = time.time()

    async def _until_wanted(self) -> None:
        """Until the next rule is due, or somebody wants all of them; at most a minute, as clocks may be set."""
        self._called.clear()
        if self._wanted:
            return
        due = min(self._next_at.values(), default=None)
        left_seconds = (due - self._now()).total_seconds() if due is not None else _LONGEST_SLEEP_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(left_seconds, _LONGEST_SLEEP_SECONDS))):
                await self._called.wait()

    def _plan_next(self, rule: Rule) -> None:
        if rule.table.schedule is not None:
            self._next_at[rule.number] = rule.table.schedule.after(self._now())

    def _status(self, rule: Rule) -> RuleStatus:
        due = self._next_at.get(rule.number)
        return RuleStatus(
            number=rule.number,
            repositories=rule.table.repositories,
            upstream=rule.upstream,
            to=rule.table.to,
            schedule=rule.table.schedule.text if rule.table.schedule is not None else None,
            next_at=due.timestamp() if due is not None else None,
            scanned_at=self._scanned_at.get(rule.number),
            tags=sum(self._tags[rule.number].values()) if rule.number in self._tags else None,
            error=self._errors.get(rule.number, ""),
        )
