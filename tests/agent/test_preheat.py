"""The node's part in preheats, with a site and stores that do what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from imagedist.agent.preheat import NodePreheat
from imagedist.agent.preheat_state import KeptImage, KeptLayer, PreheatState
from imagedist.errors import FullError, ImagedistError, SourceError
from imagedist.oci.digest import Digest
from imagedist.preheat.shapes import LayerReport, Order, Orders, Report, Wanted
from tests.support.waiting import until

APP = Wanted(reference="r.example/app:1", digest=Digest.of(b"app"))
LAYER = KeptLayer(digest=Digest.of(b"layer"), size_bytes=10, layer_id="l1")
KEPT = KeptImage(index=APP.digest, manifest=APP.digest, config=Digest.of(b"config"), config_bytes=5, layers=(LAYER,))


class Site:
    """Orders for those who poll; a poll that says nothing new is held until there are others."""

    def __init__(self) -> None:
        self.urls = ("http://seeder",)
        self.node_id = "n1"
        self.orders = Orders()
        self.reports: list[Report] = []
        self.failure: ImagedistError | None = None
        self.stops_with_the_node = False
        self._changed = asyncio.Event()

    def order(self, *orders: Order, version: str, rate: int | None = None) -> None:
        self.orders = Orders(version=version, orders=orders, rate=rate)
        self._changed.set()
        self._changed = asyncio.Event()

    async def call(self, method: str, path: str, shape: object, body: Any, wait_seconds: float = 0) -> Orders:
        if self.failure is not None:
            raise self.failure
        report = Report.model_validate(body)
        self.reports.append(report)
        changed = self._changed
        if report.version == self.orders.version and report.wait_seconds:
            try:
                await changed.wait()
            except asyncio.CancelledError:
                if self.stops_with_the_node:
                    raise SourceError("this seeder is about to stop") from None
                raise
        return self.orders

    async def told(self, state: str) -> Report:
        """The first report in which every image is in that state."""
        found: list[Report] = []

        def is_told() -> bool:
            for report in self.reports:
                images = [image for rule in report.rules for image in rule.images]
                if images and all(image.state == state for image in images):
                    found.append(report)
            return bool(found)

        await until(is_told)
        return found[0]


class Images:
    """Stores that hold what was brought."""

    def __init__(self, *failures: ImagedistError) -> None:
        self.failures = list(failures)
        self.here: set[str] = set()
        self.unanswered: dict[str, str] = {}
        self.brought: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()
        self.was_cancelled = False
        self.pins: Mapping[str, str] = {}
        self.released: list[str] = []

    async def resolve(self, wanted: Wanted) -> KeptImage:
        return KEPT

    async def missing(self, wanted: Wanted, kept: KeptImage, places: Iterable[str]) -> dict[str, str]:
        return {place: self.unanswered.get(place, "") for place in places if place not in self.here}

    def layers(self, kept: KeptImage, unpacked: Collection[str]) -> tuple[LayerReport, ...]:
        return (LayerReport(digest=LAYER.digest, size_bytes=10, is_unpacked="storage" in self.here),)

    def unpacked_layers(self) -> Collection[str]:
        return ()

    async def bring(self, order: Order, wanted: Wanted, kept: KeptImage, places: Iterable[str]) -> None:
        self.began.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        self.brought += places
        if self.failures:
            raise self.failures.pop(0)
        if any(place in self.unanswered for place in places):
            raise SourceError("it hangs")
        self.here.update(places)

    async def keep_in_runtimes(self, order: Order, wanted: Wanted, is_kept: bool) -> None:
        self.released += [place for place in order.into if not is_kept]

    def pin(self, images: Mapping[str, str]) -> None:
        self.pins = dict(images)


def order(**more: Any) -> Order:
    return Order.model_validate(
        {"rule": "base", "run": "1.5", "images": (APP,), "into": ("storage",), "may_work": True, **more}
    )


class Node:
    def __init__(self, directory: Path, images: Images) -> None:
        self.site, self.images = Site(), images
        self.path = directory / "preheat.json"
        self.slept: list[float] = []
        self.rates: list[int | None] = []
        seeders: Any = self.site
        stores: Any = images
        self.preheat = NodePreheat(seeders, stores, self.path, self.rates.append, lambda: 7, 60.0, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.preheat.restore()
        keeping = asyncio.create_task(self.preheat.keep())
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping


async def test_what_is_missing_is_brought_under_the_cap_pinned_and_confirmed(tmp_path: Path) -> None:
    node = Node(tmp_path, Images())
    async with node.running():
        node.site.order(order(), version="1", rate=500)
        report = await node.site.told("present")
    assert report.rules[0].images[0].layers[0].is_unpacked
    assert node.images.pins == {KEPT.config.hex: "pinned by preheat base"}
    assert 500 in node.rates
    assert node.rates[-1] is None


async def test_a_site_that_stops_in_the_same_moment_as_the_node_is_no_fault_in_the_log(tmp_path: Path) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    node = Node(tmp_path, Images())
    async with node.running():
        node.site.order(order(), version="1")
        await node.site.told("present")
        node.site.stops_with_the_node = True
    gc.collect()
    assert faults == []


async def test_a_source_that_fails_is_tried_again_with_back_off_and_then_told(tmp_path: Path) -> None:
    node = Node(tmp_path, Images(SourceError("cut"), SourceError("cut again"), SourceError("cut for good")))
    async with node.running():
        node.site.order(order(attempts=3), version="1")
        report = await node.site.told("failed")
        assert report.rules[0].images[0].message == "cut for good"
        assert len(node.slept) == 2
        node.site.order(order(run="2.9"), version="2")  # another run tries again
        await node.site.told("present")


async def test_a_full_disk_is_told_at_once(tmp_path: Path) -> None:
    node = Node(tmp_path, Images(FullError("no room")))
    async with node.running():
        node.site.order(order(attempts=3), version="1")
        assert (await node.site.told("failed")).rules[0].images[0].message == "no room"
    assert node.slept == []


async def test_work_stops_when_the_order_says_so_and_the_image_stays_missing(tmp_path: Path) -> None:
    node = Node(tmp_path, Images())
    node.images.gate.clear()
    async with node.running():
        node.site.order(order(), version="1")
        await node.images.began.wait()
        await node.site.told("working")
        node.site.reports.clear()
        node.site.order(order(may_work=False), version="2")
        await node.site.told("missing")
    assert node.images.was_cancelled


async def test_who_may_not_work_only_says_what_is_there(tmp_path: Path) -> None:
    node = Node(tmp_path, Images())
    async with node.running():
        node.site.order(order(may_work=False), version="1")
        assert (await node.site.told("missing")).rules[0].images[0].missing == ("storage",)
    assert not node.images.began.is_set()


async def test_orders_outlive_the_agent_and_without_the_site_pins_stay_but_nothing_is_brought(tmp_path: Path) -> None:
    node = Node(tmp_path, Images())
    async with node.running():
        node.site.order(order(into=("blobs", "storage")), version="1")
        await node.site.told("present")
    again = Node(tmp_path, Images())
    again.site.failure = SourceError("nobody answers")
    async with again.running():
        await until(lambda: len(again.slept) >= 3 and bool(again.images.pins))
        assert again.preheat.pinned_blobs() == {LAYER.digest, KEPT.config}
        assert not again.images.began.is_set()
        again.site.failure = None
        again.site.order(order(into=("blobs", "storage")), version="1")
        await again.site.told("present")


async def test_pins_go_with_the_rule_also_those_in_runtimes(tmp_path: Path) -> None:
    node = Node(tmp_path, Images())
    async with node.running():
        node.site.order(order(into=("storage", "containerd")), version="1")
        await node.site.told("present")
        node.site.order(version="2")
        await until(lambda: not node.images.pins)
    assert node.images.released == ["storage", "containerd"]
    assert PreheatState.read(node.path).images == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"orders": 5}'])
async def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    node = Node(tmp_path, Images())
    node.path.write_bytes(content)
    async with node.running():
        node.site.order(order(), version="1")
        await node.site.told("present")


async def test_what_a_runtime_does_not_tell_waits_until_everything_else_is_done(tmp_path: Path) -> None:
    node = Node(tmp_path, Images())
    node.images.unanswered["docker"] = "dockerd does not answer"
    async with node.running():
        other = order(rule="other", into=("storage",))
        node.site.order(order(into=("docker",), attempts=1), other, version="1")
        await until(
            lambda: any(_states(report) == {"base": "failed", "other": "present"} for report in node.site.reports)
        )
    assert node.images.brought == ["storage", "docker"]
    told = [image.message for report in node.site.reports for rule in report.rules for image in rule.images]
    assert "dockerd does not answer" in told


def _states(report: Report) -> dict[str, str]:
    return {rule.rule: rule.state for rule in report.rules}


async def test_what_is_kept_for_preheats_is_in_the_metrics(tmp_path: Path) -> None:
    node = Node(tmp_path, Images())
    before = REGISTRY.get_sample_value("imagedist_preheat_received_bytes_total") or 0.0
    received = iter([0, 70])
    seeders: Any = node.site
    stores: Any = node.images
    node.preheat = NodePreheat(seeders, stores, node.path, node.rates.append, lambda: next(received), 60.0, node._sleep)
    async with node.running():
        node.site.order(order(), order(rule="other", may_work=False, into=("blobs",)), version="1")
        await until(
            lambda: any(_states(report) == {"base": "present", "other": "missing"} for report in node.site.reports)
        )
        images = {
            (rule, state): REGISTRY.get_sample_value("imagedist_preheat_images", {"rule": rule, "state": state})
            for rule in ("base", "other")
            for state in ("present", "missing")
        }
        pinned_bytes = REGISTRY.get_sample_value("imagedist_preheat_pinned_bytes")
        node.site.order(order(), version="2")
        labels = {"rule": "other", "state": "missing"}
        await until(lambda: REGISTRY.get_sample_value("imagedist_preheat_images", labels) is None)
    assert images == {
        ("base", "present"): 1.0,
        ("base", "missing"): 0.0,
        ("other", "present"): 0.0,
        ("other", "missing"): 1.0,
    }
    assert pinned_bytes == LAYER.size_bytes, "one layer, of two rules"
    assert REGISTRY.get_sample_value("imagedist_preheat_received_bytes_total") == before + 70
