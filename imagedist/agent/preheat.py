"""The node's part in preheats: asks the site for orders, keeps what they name, brings what is missing, says what is so.

Orders are a wanted state, not tasks: after any kill, of the agent or of the seeder, the node looks at what it has and
goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from imagedist.agent.preheat_images import NodeImages
from imagedist.agent.preheat_state import KeptImage, PreheatState
from imagedist.errors import ImagedistError, IntegrityError, SourceError, StorageError
from imagedist.metrics import PREHEAT_IMAGES, PREHEAT_PINNED_BYTES, PREHEAT_RECEIVED
from imagedist.oci.digest import Digest
from imagedist.preheat.shapes import (
    MAX_MESSAGE,
    ImageReport,
    LayerReport,
    Order,
    Orders,
    Report,
    RuleReport,
    State,
    Wanted,
)
from imagedist.site.seeders import Seeders
from imagedist.threads import settled

_LOG = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""How often what is here is looked at: what a garbage collector took is noticed so late."""
_POLL_SECONDS = 20.0
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""After a poll that failed: doubled each time."""
_SILENCE_SECONDS = 120.0
"""Without a word from the site for so long, nothing more is brought: a window may have closed, a run may be over."""
_LONGEST_RETRY_SECONDS = 60.0
_MAX_LAYERS = 5000
"""In one report: some 700 kB."""


class _Task(NamedTuple):
    """An image that is to be brought now."""

    order: Order
    wanted: Wanted
    missing: tuple[str, ...]
    is_doubtful: bool
    """Some place does not even say what it has: what can be brought elsewhere goes first."""


class NodePreheat:
    """
    Args:
        images: what is here, and how the rest comes.
        path: of the file in which orders outlive the agent.
        lower: caps what the node takes; None takes the cap off.
        received: bytes that the node has taken since its start.
        look_seconds, sleep: injected by tests.
    """

    def __init__(
        self,
        seeders: Seeders,
        images: NodeImages,
        path: Path,
        lower: Callable[[int | None], None],
        received: Callable[[], int],
        look_seconds: float = LOOK_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._seeders = seeders
        self._images = images
        self._path = path
        self._lower = lower
        self._received = received
        self._look_seconds = look_seconds
        self._sleep = sleep
        self._state = PreheatState()
        self._orders_changed = asyncio.Event()
        self._reports_changed = asyncio.Event()
        self._reports: tuple[RuleReport, ...] = ()
        self._failed: dict[tuple[str, str, str], str] = {}
        self._heard_at = float("-inf")
        self._told: set[str] = set()

    def pinned_blobs(self) -> frozenset[Digest]:
        """What must stay in the node's cache."""
        return frozenset(
            digest
            for order in self._state.orders.orders
            if order.is_pinned and "blobs" in order.into
            for wanted in order.images
            if (kept := self._state.images.get(wanted.digest)) is not None
            for digest in kept.blobs
        )

    async def restore(self) -> None:
        """Takes up the orders of before, first of all their pins. Raises StorageError."""
        self._state = await settled(asyncio.to_thread(PreheatState.read, self._path))

    async def keep(self) -> None:
        """Does what the site wants, until cancelled."""
        if not self._seeders.urls:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask())
            group.create_task(self._work())

    async def _ask(self) -> None:
        """Reports and asks for orders, again and again."""
        said, pause_seconds = "", _PAUSE_SECONDS
        while True:
            self._reports_changed.clear()
            try:
                orders = await self._asked()
            except Exception as error:
                if not isinstance(error, ImagedistError):
                    _LOG.exception("cannot ask the site for orders")
                elif str(error) != said:
                    _LOG.info("the site gives no orders: %s", error)
                said = str(error)
                await self._sleep(pause_seconds * random.uniform(0.5, 1.0))
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
                continue
            said, pause_seconds = "", _PAUSE_SECONDS
            if orders is not None:
                await self._take(orders)

    async def _asked(self) -> Orders | None:
        """None: what is to be reported changed meanwhile."""
        # Orders of before the silence hold again when the site says so: not when the first long poll is over.
        wait_seconds = 0 if self._is_silent() else _POLL_SECONDS
        report = Report(version=self._state.orders.version, wait_seconds=wait_seconds, rules=self._reports)
        path = f"nodes/{self._seeders.node_id}/work"
        asking = asyncio.create_task(
            self._seeders.call("POST", path, Orders, report.model_dump(mode="json"), _POLL_SECONDS)
        )
        changing = asyncio.create_task(self._reports_changed.wait())
        try:
            await asyncio.wait([asking, changing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changing.cancel()
            if not asking.done():
                asking.cancel()
            await asyncio.wait([asking, changing])
            if not asking.cancelled():
                asking.exception()  # seen: whoever cancels us does not ask for it, as when site and node stop together
        return None if asking.cancelled() else asking.result()

    async def _take(self, orders: Orders) -> None:
        now = asyncio.get_running_loop().time()
        was_silent, self._heard_at = self._is_silent(), now
        if orders.version == self._state.orders.version:
            if was_silent:
                self._orders_changed.set()
            return
        await self._release(self._state.orders, orders)
        self._state.orders = orders
        runs = {(order.rule, order.run) for order in orders.orders}
        self._failed = {key: message for key, message in self._failed.items() if key[:2] in runs}
        await self._write()
        self._orders_changed.set()

    async def _release(self, before: Orders, now: Orders) -> None:
        """Takes off the pins in runtimes that no order wants any more."""
        pinned = {
            (wanted.reference, place)
            for each in now.orders
            if each.is_pinned
            for wanted in each.images
            for place in each.into
        }
        for order in before.orders:
            for wanted in order.images if order.is_pinned else ():
                places = tuple(place for place in order.into if (wanted.reference, place) not in pinned)
                with contextlib.suppress(ImagedistError):  # it is gone, or the runtime is
                    await self._images.keep_in_runtimes(order.model_copy(update={"into": places}), wanted, False)

    async def _work(self) -> None:
        """Looks, pins, and brings one image at a time."""
        while True:
            self._orders_changed.clear()
            try:
                task = await self._look()
            except Exception:
                _LOG.exception("cannot look at what is preheated")
                task = None
            if task is not None:
                await self._carry_out(task)
                continue
            self._lower(None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._orders_changed.wait()

    async def _look(self, working: _Task | None = None) -> _Task | None:
        """Sees what is true, says it, and finds what to do next.

        Args:
            working: what is being brought.
        """
        reports: list[RuleReport] = []
        tasks: list[_Task] = []
        for order in self._state.orders.orders:
            images = []
            for wanted in order.images:
                is_working = working is not None and (working.order.rule, working.wanted) == (order.rule, wanted)
                report = await self._report(order, wanted, is_working)
                images.append(report)
                if report.state == "missing" and order.may_work and not self._is_silent():
                    tasks.append(_Task(order, wanted, report.missing, report.message != ""))
            received_bytes = self._state.received(order.rule, order.run)
            reports.append(
                RuleReport(rule=order.rule, run=order.run, images=tuple(images), received_bytes=received_bytes)
            )
        await self._pin()
        self._tell(reports)
        found = _fitting(reports)
        if found != self._reports:
            self._reports = found
            self._reports_changed.set()
        return min(tasks, key=lambda task: task.is_doubtful, default=None)

    def _tell(self, reports: Sequence[RuleReport]) -> None:
        """What Prometheus is told."""
        rules = {report.rule for report in reports}
        for state in get_args(State):
            for gone in self._told - rules:
                with contextlib.suppress(KeyError):
                    PREHEAT_IMAGES.remove(gone, state)
            for report in reports:
                count = sum(image.state == state for image in report.images)
                PREHEAT_IMAGES.labels(report.rule, state).set(count)
        self._told = rules
        pinned = {order.rule for order in self._state.orders.orders if order.is_pinned}
        kept = {
            layer.digest: layer.size_bytes
            for report in reports
            if report.rule in pinned
            for image in report.images
            for layer in image.layers
            if layer.is_cached or layer.is_unpacked
        }
        PREHEAT_PINNED_BYTES.set(sum(kept.values()))

    async def _report(self, order: Order, wanted: Wanted, is_working: bool) -> ImageReport:
        missing, message = tuple(order.into), ""
        layers: tuple[LayerReport, ...] = ()
        try:
            kept = self._state.images.get(wanted.digest) or await self._resolved(wanted)
            found = await self._images.missing(wanted, kept, order.into)
            missing, message = tuple(found), "; ".join(dict.fromkeys(filter(None, found.values())))[:MAX_MESSAGE]
            layers = await settled(asyncio.to_thread(self._layers, kept))
        except ImagedistError as error:
            message = str(error)[:MAX_MESSAGE]
        key = (order.rule, order.run, wanted.reference)
        if not missing:
            self._failed.pop(key, None)
            return ImageReport(reference=wanted.reference, digest=wanted.digest, state="present", layers=layers)
        failed = self._failed.get(key)
        return ImageReport(
            reference=wanted.reference,
            digest=wanted.digest,
            state="working" if is_working else "failed" if failed is not None else "missing",
            missing=missing,
            layers=layers,
            message=failed if failed is not None and not is_working else message,
        )

    def _layers(self, kept: KeptImage) -> tuple[LayerReport, ...]:
        return self._images.layers(kept, self._images.unpacked_layers())

    async def _resolved(self, wanted: Wanted) -> KeptImage:
        kept = self._state.images[wanted.digest] = await self._images.resolve(wanted)
        await self._write()
        return kept

    async def _pin(self) -> None:
        reasons = {
            kept.config.hex: f"pinned by preheat {order.rule}"
            for order in self._state.orders.orders
            if order.is_pinned and "storage" in order.into
            for wanted in order.images
            if (kept := self._state.images.get(wanted.digest)) is not None
        }
        try:
            await settled(asyncio.to_thread(self._images.pin, reasons))
        except StorageError as error:
            _LOG.warning("preheated images are not pinned: %s", error)

    async def _carry_out(self, task: _Task) -> None:
        """Brings an image, unless the orders change their mind meanwhile."""
        order, wanted = task.order, task.wanted
        self._lower(self._state.orders.rate)
        await self._look(task)
        before_bytes = self._received()
        bringing = asyncio.create_task(self._bring(task))
        try:
            while not bringing.done() and self._is_wanted(task):
                self._orders_changed.clear()
                changing = asyncio.create_task(self._orders_changed.wait())
                try:
                    await asyncio.wait(
                        [bringing, changing], timeout=self._look_seconds, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    changing.cancel()
                self._lower(self._state.orders.rate)
        finally:
            if not bringing.done():
                bringing.cancel()
            await asyncio.wait([bringing])
            received_bytes = max(self._received() - before_bytes, 0)
            PREHEAT_RECEIVED.inc(received_bytes)
            self._state.note_received(order.rule, order.run, received_bytes)
            await self._write()
        if bringing.cancelled():
            return
        error = bringing.exception()
        key = (order.rule, order.run, wanted.reference)
        if error is None:
            kept = self._state.images.get(wanted.digest)
            missing: Collection[str] = task.missing
            with contextlib.suppress(ImagedistError):
                missing = await self._images.missing(wanted, kept, task.missing) if kept is not None else missing
            if missing:
                self._failed[key] = (
                    f"it came, but is not in {', '.join(missing)} as {wanted.digest.short}: has the tag moved?"
                )
        elif isinstance(error, ImagedistError):
            _LOG.warning("preheat %s: cannot bring %s: %s", order.rule, wanted.reference, error)
            self._failed[key] = str(error)[:MAX_MESSAGE]
        else:
            _LOG.error("preheat %s: cannot bring %s", order.rule, wanted.reference, exc_info=error)
            self._failed[key] = f"the agent failed: {error!r}"[:MAX_MESSAGE]

    async def _bring(self, task: _Task) -> None:
        order, wanted = task.order, task.wanted
        retrying = AsyncRetrying(
            stop=stop_after_attempt(order.attempts),
            wait=wait_random_exponential(max=_LONGEST_RETRY_SECONDS),
            retry=retry_if_exception_type((SourceError, IntegrityError)),
            sleep=self._sleep,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                kept = self._state.images.get(wanted.digest) or await self._resolved(wanted)
                await self._images.bring(order, wanted, kept, task.missing)

    def _is_wanted(self, task: _Task) -> bool:
        if self._is_silent():
            return False
        return any(
            order.may_work
            and order.rule == task.order.rule
            and order.run == task.order.run
            and task.wanted in order.images
            for order in self._state.orders.orders
        )

    def _is_silent(self) -> bool:
        return asyncio.get_running_loop().time() - self._heard_at > _SILENCE_SECONDS

    async def _write(self) -> None:
        await settled(asyncio.to_thread(self._state.write, self._path))


def _fitting(reports: Sequence[RuleReport]) -> tuple[RuleReport, ...]:
    """Without the layers if there are so many that the site would not read them."""
    if sum(len(image.layers) for report in reports for image in report.images) <= _MAX_LAYERS:
        return tuple(reports)
    return tuple(
        report.model_copy(update={"images": tuple(image.model_copy(update={"layers": ()}) for image in report.images)})
        for report in reports
    )
