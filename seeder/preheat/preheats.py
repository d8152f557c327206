"""The site's preheats at work: starts runs, lets waves of nodes begin, hears what they have, says what is true."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Literal

from aiohttp import web

from imagedist.errors import InputError, NotFoundError, OverloadedError, StorageError
from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import (
    MAX_RULES,
    NodeOutcome,
    NodePreheat,
    Orders,
    PreheatStatus,
)
from imagedist.service import beside
from seeder.leading import Leading
from seeder.nodes import Nodes
from seeder.preheat import gauges, plan
from seeder.preheat.images import Images
from seeder.preheat.orders import NodeRule, orders_of
from seeder.preheat.plan import Standing, Target
from seeder.preheat.reports import Reports
from seeder.preheat.rows import RunRows
from seeder.preheat.run import Run

_LOG = logging.getLogger(__name__)

_TICK_SECONDS = 2.0
"""Windows, deadlines and nodes that go are noticed so late."""
_PAUSE_SECONDS = 0.1
"""Reports that come within so long are looked at together."""
MAX_WAIT_SECONDS = 30.0


class Preheats:
    """
    Args:
        nodes: the inventory.
        rows: where the runs are kept.
        images: says what the images of a rule mean.
        leading: only who leads has runs, and answers. None: there is no other seeder.
        clock: seconds since the epoch. local: the local time, for windows. Both injected by tests.
    """

    def __init__(
        self,
        nodes: Nodes,
        rows: RunRows,
        images: Images,
        clock: Callable[[], float] = time.time,
        local: Callable[[], datetime] = datetime.now,
        leading: Leading | None = None,
    ) -> None:
        self._nodes = nodes
        self._rows = rows
        self._images = images
        self._clock = clock
        self._local = local
        self._leading = leading
        self._is_ready = leading is None
        self._runs: dict[str, Run] = {}
        self._standings: dict[str, tuple[Standing, dict[str, NodeOutcome]]] = {}
        self._reports = Reports()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._changing = asyncio.Lock()
        self._dirty = asyncio.Event()
        nodes.changed.append(self._node_changed)

    async def restore(self) -> None:
        """Takes up what an earlier process had begun, or the seeder that led before. Raises StorageError."""
        self._runs = {run.rule.name: run for run in await self._rows.load()}
        self._standings = {}
        self._is_ready = True
        for name in self._runs:
            self._look(name)

    async def lead(self) -> None:
        """While this seeder leads, until cancelled: takes up the runs, and lets them go on. Raises StorageError."""
        try:
            async with self._changing:
                await self.restore()
            await self.keep()
        finally:
            self._is_ready = self._leading is None
            for name in self._runs:
                gauges.forget(name)  # who leads now tells them
            self._wake_all()

    def _require(self) -> None:
        """Raises OverloadedError: another seeder has the runs, or none; orders made up here would be wrong."""
        if self._leading is not None:
            self._leading.require()
        if not self._is_ready:
            raise OverloadedError("this seeder is about to take up the site's preheats: ask again")

    async def keep(self) -> None:
        """Lets things go on, until cancelled."""
        said = ""
        while True:
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._dirty.wait()
                await asyncio.sleep(_PAUSE_SECONDS)
            except TimeoutError:
                pass
            self._dirty.clear()
            try:
                await self.tick()
                said = ""
            except StorageError as error:
                if str(error) != said:
                    _LOG.warning("preheats stand still: %s", error)
                said = str(error)

    async def tick(self) -> None:
        """Once: looks at every run, and lets the next nodes begin. Raises StorageError."""
        async with self._changing:
            for name in list(self._runs):
                await self._advance(name)

    async def run(self, rule: PreheatRule) -> PreheatStatus:
        """Begins a run of a rule; one of the very rule under way is joined instead, unless a node failed.

        Raises:
            InputError: nothing can be asked about images. OverloadedError: too many rules, or another seeder leads.
            StorageError.
        """
        self._require()
        async with self._changing:
            before = self._runs.get(rule.name)
            if before is not None and before.rule == rule and before.state == "active":
                standing, outcomes = self._look(rule.name)
                if not standing.is_over and "failed" not in outcomes.values():
                    return self.status(rule.name)
            if before is None and len(self._runs) >= MAX_RULES:
                raise OverloadedError(f"no room for preheat {rule.name}: there are {MAX_RULES}; remove some")
            images, problems = await self._images.resolve(rule, before.images if before is not None else ())
            number = before.number + 1 if before is not None else 1
            run = Run(rule=rule, number=number, started_at=self._clock(), images=images, problems=problems)
            await self._put(run)
            gauges.tell_run(rule.name, "begun")
            _LOG.info("preheat %s, run %d: %d images, %d problems", rule.name, number, len(images), len(problems))
            await self._advance(rule.name)
        return self.status(rule.name)

    async def order(self, name: str, state: Literal["active", "paused", "cancelled"]) -> PreheatStatus:
        """Pauses, resumes or cancels a run.

        Raises:
            NotFoundError: no such rule. InputError: a cancelled run is over. OverloadedError: another seeder leads.
            StorageError.
        """
        self._require()
        async with self._changing:
            run = self._run(name)
            if run.state == "cancelled" and state != "cancelled":
                raise InputError(f"run {run.number} of preheat {name} was cancelled: begin another one")
            await self._put(run.model_copy(update={"state": state}))
            await self._advance(name)
        return self.status(name)

    async def remove(self, name: str) -> None:
        """The rule goes, and with it its pins on the nodes. Raises NotFoundError, OverloadedError, StorageError."""
        self._require()
        async with self._changing:
            self._run(name)
            await self._rows.delete(name)
            del self._runs[name]
            self._standings.pop(name, None)
            gauges.forget(name)
        self._wake_all()

    def status(self, name: str, *, with_nodes: bool = True, with_images: bool = True) -> PreheatStatus:
        """What is true now. Raises NotFoundError: no such rule. OverloadedError: another seeder leads."""
        self._require()
        run = self._run(name)
        standing, outcomes = self._look(name)
        nodes = [self._node(run, node_id, each, with_images) for node_id, each in outcomes.items() if with_nodes]
        until = run.finished_at if standing.is_over and run.finished_at is not None else self._clock()
        return PreheatStatus(
            name=name,
            run=run.number,
            state=standing.state,
            started_at=run.started_at,
            seconds=round(max(until - run.started_at, 0.0), 1),
            is_over=standing.is_over,
            is_confirmed=standing.is_confirmed,
            rule=run.rule,
            images=run.images,
            problems=run.problems,
            counts=dict(Counter(outcomes.values())),
            received_bytes=self._received_bytes(run, outcomes),
            nodes=tuple(nodes),
        )

    def all(self) -> list[PreheatStatus]:
        """Every rule's status, without nodes. Raises OverloadedError: another seeder leads."""
        self._require()
        return [self.status(name, with_nodes=False) for name in sorted(self._runs)]

    async def work(self, node_id: str, body: bytes) -> Orders:
        """Hears a node's report, and answers with its orders: at once if it has others, else when that changes or its
        wait is over.

        Raises:
            InputError: not a report. OverloadedError: another seeder leads, and is to be asked.
        """
        self._require()
        report, is_news = self._reports.take(node_id, body)
        if is_news:
            self._dirty.set()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(report.wait_seconds, MAX_WAIT_SECONDS)
        changed = asyncio.Event()
        self._waiting.setdefault(node_id, set()).add(changed)
        try:
            while True:
                changed.clear()
                self._require()
                orders = self._orders(node_id) or Orders(version=report.version)  # unknown: it keeps what it has
                if orders.version != report.version or loop.time() >= deadline:
                    return orders
                try:
                    async with asyncio.timeout_at(deadline):
                        await changed.wait()
                except TimeoutError:
                    pass
        finally:
            waiting = self._waiting[node_id]
            waiting.discard(changed)
            if not waiting:
                del self._waiting[node_id]
            if self._nodes.get(node_id) is None:
                self._reports.forget(node_id)  # nobody known: its report must not stay

    async def _advance(self, name: str) -> None:
        """Looks at a run; admits the next wave, and notes who confirmed and that it is over."""
        run, before = self._runs[name], self._standings.get(name)
        standing, outcomes = self._look(name)
        changes: dict[str, object] = {}
        admitted = set(plan.admissible(run, outcomes)) if standing.may_admit else set()
        if admitted:
            changes["admitted"] = run.admitted | admitted
        confirmed = {node_id for node_id, each in outcomes.items() if each == "done"} - run.confirmed
        if confirmed and run.rule.missing == "report":
            changes["confirmed"] = run.confirmed | confirmed
        if run.finished_at is None and standing.state in ("done", "incomplete"):
            changes["finished_at"] = self._clock()
        if changes:
            await self._put(run.model_copy(update=changes))
            self._look(name)
        if "finished_at" in changes:
            gauges.tell_run(name, standing.state)
        now = self._standings[name]
        gauges.tell(self._runs[name], now, before, self._received_bytes(self._runs[name], now[1]))
        if before is None or self._terms(run, before) != self._terms(self._runs[name], now):
            self._wake_all()
        else:
            changed = {node_id for node_id, each in now[1].items() if before[1].get(node_id) != each}
            for node_id in admitted | confirmed | changed:
                self._wake(node_id)

    def _terms(self, run: Run, looked: tuple[Standing, dict[str, NodeOutcome]]) -> object:
        """What all nodes of a run are told besides their turn."""
        return run.id, looked[0].state, _rate(run, looked[1])

    def _look(self, name: str) -> tuple[Standing, dict[str, NodeOutcome]]:
        run = self._runs[name]
        outcomes = {target.id: plan.outcome(run, target) for target in self._targets(run)}
        windows = run.rule.limits.windows
        is_open = not windows or any(window.is_open(self._local()) for window in windows)
        self._standings[name] = (plan.standing(run, outcomes, self._clock(), is_open), outcomes)
        return self._standings[name]

    def _received_bytes(self, run: Run, node_ids: Iterable[str]) -> int:
        heard = (self._reports.heard(node_id, run.rule.name) for node_id in node_ids)
        return sum(each.received_bytes for each in heard if each is not None and each.run == run.id)

    def _targets(self, run: Run) -> list[Target]:
        return [
            Target(node.id, is_gone, node.is_paused, self._reports.heard(node.id, run.rule.name))
            for node, is_gone in self._nodes.all()
            if run.rule.nodes.match(node.heartbeat.labels)
        ]

    def _orders(self, node_id: str) -> Orders | None:
        """None: no such node has been heard of."""
        node = self._nodes.get(node_id)
        if node is None:
            return None
        found = []
        for name, run in self._runs.items():
            looked = self._standings.get(name)
            if looked is None or not run.rule.nodes.match(node.heartbeat.labels):
                continue
            standing, outcomes = looked
            is_at_work = plan.may_work(run, standing, outcomes.get(node_id, "waiting"), node_id)
            found.append(NodeRule(run, is_at_work, _rate(run, outcomes)))
        return orders_of(found)

    def _node(self, run: Run, node_id: str, outcome: NodeOutcome, with_images: bool) -> NodePreheat:
        heard = self._reports.heard(node_id, run.rule.name)
        message, received_bytes = "", 0
        if heard is not None and heard.run == run.id:
            message, received_bytes = heard.message, heard.received_bytes
        if outcome == "gone":
            message = f"not heard of for {self._nodes.seen_seconds_ago(node_id):.0f} s"
        full = self._reports.full(node_id, run.rule.name) if with_images else None
        return NodePreheat(
            id=node_id,
            outcome=outcome,
            message=message,
            received_bytes=received_bytes,
            images=full.images if full is not None else (),
        )

    async def _put(self, run: Run) -> None:
        await self._rows.put(run)
        self._runs[run.rule.name] = run

    def _run(self, name: str) -> Run:
        if name not in self._runs:
            known = ", ".join(sorted(self._runs)) or "none"
            raise NotFoundError(f"no preheat {name[:80]} at this site; there is: {known}")
        return self._runs[name]

    def _node_changed(self, node_id: str) -> None:
        if not self._nodes.lives(node_id):
            self._reports.forget(node_id)  # what it had is not known any more
        self._dirty.set()
        self._wake(node_id)

    def _wake(self, node_id: str) -> None:
        for event in self._waiting.get(node_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for node_id in list(self._waiting):
            self._wake(node_id)


def _rate(run: Run, outcomes: dict[str, NodeOutcome]) -> int | None:
    return plan.node_rate(run, sum(each == "working" for each in outcomes.values()))


PREHEATS_KEY = web.AppKey("preheats", Preheats)


@asynccontextmanager
async def preheating(preheats: Preheats, leading: Leading) -> AsyncIterator[None]:
    """They go on while the context is open and this seeder leads.

    Raises:
        StorageError: what was begun cannot be read.
    """
    if leading.leads:
        await preheats.restore()
    async with beside(partial(leading.led, preheats.lead), "preheats"):
        yield
