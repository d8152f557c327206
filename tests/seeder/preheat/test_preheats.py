"""The site's preheats at work, with nodes that say what they are told to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY

from imagedist.errors import InputError, NotFoundError
from imagedist.nodes import Heartbeat
from imagedist.oci.digest import Digest
from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import ImageReport, Orders, PreheatStatus, Report, RuleReport, Wanted
from imagedist.service import render_site_errors
from seeder.database import Database
from seeder.nodes import GONE_SECONDS, Nodes
from seeder.preheat.images import Images
from seeder.preheat.preheats import Preheats
from seeder.preheat.routes import add_preheat_routes
from seeder.preheat.rows import RunRows

APP = Digest.of(b"app")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def local(self) -> datetime:
        return datetime(2026, 11, 27, 12, 0)


class Answers(Images):
    """Every image is there."""

    def __init__(self) -> None:
        super().__init__(None)
        self.digest = APP
        self.asked = 0

    async def resolve(self, rule: PreheatRule, before: object) -> tuple[tuple[Wanted, ...], tuple[str, ...]]:
        self.asked += 1
        return tuple(Wanted(reference=each, digest=self.digest) for each in rule.images), ()


class World:
    """A seeder's preheats over a database; ``again`` is what another process makes of it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database, self.clock, self.images = database, clock, Answers()
        self.again()

    def again(self) -> None:
        self.nodes = Nodes(clock=self.clock, wall=self.clock)
        self.preheats = Preheats(self.nodes, RunRows(self.database), self.images, self.clock, self.clock.local)
        self.versions: dict[str, str] = {}

    def join(self, *ids: str, **labels: str) -> None:
        for node_id in ids:
            self.nodes.beat(node_id, Heartbeat(labels=labels))

    async def run(self, **more: Any) -> PreheatStatus:
        rule = PreheatRule.model_validate({"name": "x", "images": ["r.example/app:1"], **more})
        return await self.preheats.run(rule)

    async def ask(self, node_id: str, state: Any = None, message: str = "", wait_seconds: float = 0) -> Orders:
        """One poll: what the node says of every image that it was told of."""
        orders = self.told.get(node_id, Orders())
        reports = tuple(
            RuleReport(
                rule=order.rule,
                run=order.run,
                images=tuple(
                    ImageReport(reference=each.reference, digest=each.digest, state=state, message=message)
                    for each in order.images
                ),
            )
            for order in (orders.orders if state is not None else ())
        )
        body = Report(version=orders.version, rules=reports, wait_seconds=wait_seconds).model_dump_json().encode()
        self.told[node_id] = told = await self.preheats.work(node_id, body)
        await self.preheats.tick()
        return told

    @property
    def told(self) -> dict[str, Orders]:
        return self.__dict__.setdefault("_told", {})

    async def at_work(self, *ids: str) -> list[str]:
        return [node_id for node_id in ids if any(order.may_work for order in (await self.ask(node_id)).orders)]

    def outcomes(self) -> dict[str, str]:
        return {node.id: node.outcome for node in self.preheats.status("x").nodes}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    database = await Database.open(database_url)
    yield World(database, Clock())
    await database.close()


async def test_waves_follow_each_other_and_a_failed_or_gone_node_holds_nobody_up(world: World) -> None:
    world.join("a", "b", "c", "d", "e")
    await world.run(waves={"size": 2})
    assert await world.at_work(*"abcde") == ["a", "b"]
    await world.ask("a", "present")
    assert await world.at_work(*"cde") == []
    await world.ask("b", "failed", "no room")
    assert await world.at_work(*"cde") == ["c", "d"]
    world.clock.now += GONE_SECONDS + 1
    world.join("a", "b", "e")  # c and d are gone; the others were, so they have to say again what they have
    await world.ask("a", "present")
    assert await world.at_work("e") == []
    await world.ask("b", "failed", "no room")
    assert await world.at_work("e") == ["e"]
    await world.ask("e", "present")
    status = world.preheats.status("x")
    assert (status.state, status.is_over, status.is_confirmed) == ("incomplete", True, False)
    assert world.outcomes() == {"a": "done", "b": "failed", "c": "gone", "d": "gone", "e": "done"}
    assert [node.message for node in status.nodes[1:3]] == ["no room", "not heard of for 121 s"]


async def test_too_many_failures_stop_the_next_wave_until_another_run(world: World) -> None:
    world.join("a", "b", "c")
    await world.run(waves={"size": 1, "failures": 0})
    await world.ask("a")
    await world.ask("a", "failed", "bad disk")
    assert world.preheats.status("x").state == "stopped"
    assert await world.at_work("b", "c") == []
    assert (await world.run(waves={"size": 1, "failures": 0})).run == 2
    assert await world.at_work("a") == ["a"]


async def test_a_run_of_the_same_rule_is_joined_while_it_is_under_way_and_begun_anew_after(world: World) -> None:
    world.join("a")
    assert (await world.run()).run == 1
    assert (await world.run()).run == 1
    assert world.images.asked == 1
    assert (await world.run(pin=False)).run == 2  # another rule by that name
    await world.ask("a")
    await world.ask("a", "present")
    assert world.preheats.status("x").is_confirmed
    world.images.digest = Digest.of(b"moved")
    begun = await world.run(pin=False)
    assert (begun.run, begun.images[0].digest, begun.is_confirmed) == (3, Digest.of(b"moved"), False)


async def test_a_run_in_which_a_node_failed_is_not_joined_so_that_it_tries_again(world: World) -> None:
    world.join("a", "b")
    first = await world.run()
    await world.ask("a")
    await world.ask("a", "failed", "no room")
    assert world.outcomes() == {"a": "failed", "b": "working"}
    again = await world.run()
    assert again.run == first.run + 1
    assert await world.at_work("a", "b") == ["a", "b"]


async def test_a_node_that_comes_later_catches_up_by_itself(world: World) -> None:
    world.join("a", zone="1")
    await world.run(nodes={"labels": {"zone": "1"}}, limits={"deadline": "10s"})
    await world.ask("a")
    await world.ask("a", "present")
    assert world.preheats.status("x").state == "done"
    world.clock.now += 60  # the deadline was the run's, which is over
    world.join("a", "b", zone="1")
    world.join("c", zone="2")
    await world.preheats.tick()
    assert await world.at_work("a", "b", "c") == ["a", "b"]
    assert world.preheats.status("x").state == "running"


async def test_orders_come_at_once_to_who_waits_for_them(world: World) -> None:
    world.join("a")
    await world.ask("a")
    waiting = asyncio.create_task(world.ask("a", wait_seconds=30))
    await asyncio.sleep(0)
    await world.run()
    assert [order.may_work for order in (await waiting).orders] == [True]
    waiting = asyncio.create_task(world.ask("a", wait_seconds=30))
    await asyncio.sleep(0)
    await world.preheats.order("x", "paused")
    assert [order.may_work for order in (await waiting).orders] == [False]
    waiting = asyncio.create_task(world.ask("a", wait_seconds=30))
    await asyncio.sleep(0)
    world.nodes.pause("a", True)
    await world.preheats.order("x", "active")
    await world.preheats.remove("x")
    assert (await waiting).orders == ()


async def test_a_node_that_is_paused_at_work_hears_of_it_at_once(world: World) -> None:
    world.join("a", "b")
    await world.run()
    await world.ask("a")
    waiting = asyncio.create_task(world.ask("a", wait_seconds=30))
    await asyncio.sleep(0)
    world.nodes.pause("a", True)
    await world.preheats.tick()
    assert [order.may_work for order in (await waiting).orders] == [False]
    assert world.outcomes() == {"a": "paused", "b": "working"}


async def test_the_seeder_goes_on_where_it_was_killed(world: World) -> None:
    world.join("a", "b", "c")
    await world.run(waves={"size": 2})
    assert await world.at_work("a", "b", "c") == ["a", "b"]
    world.again()
    await world.preheats.restore()
    world.join("a", "b", "c")
    await world.preheats.tick()
    assert await world.at_work("a", "b", "c") == ["a", "b"]
    await world.ask("a", "present")
    await world.ask("b", "present")
    assert await world.at_work("c") == ["c"]
    assert world.preheats.status("x").run == 1


async def test_a_cancelled_run_is_over_and_pins_stay_until_the_rule_goes(world: World) -> None:
    world.join("a")
    await world.run()
    await world.preheats.order("x", "cancelled")
    (order,) = (await world.ask("a")).orders
    assert (order.may_work, order.is_pinned) == (False, True)
    with pytest.raises(InputError, match="was cancelled: begin another one"):
        await world.preheats.order("x", "active")
    assert (await world.run()).run == 2
    await world.preheats.remove("x")
    assert (await world.ask("a")).orders == ()
    with pytest.raises(NotFoundError, match="there is: none"):
        world.preheats.status("x")


async def test_outside_its_windows_a_rule_rests(world: World) -> None:
    world.join("a")
    status = await world.run(limits={"windows": ["13:00-14:00"]})
    assert (status.state, status.is_over) == ("closed", False)
    assert await world.at_work("a") == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"rules": [{"rule": "x"}]}', b'{"wait_seconds": 1e9}', b" " * (2 << 20)]
)
async def test_a_report_that_is_none_is_refused(world: World, body: bytes) -> None:
    world.join("a")
    with pytest.raises(InputError, match="bad report"):
        await world.preheats.work("a", body)


async def test_an_unknown_node_gets_no_orders_and_leaves_nothing_behind(world: World) -> None:
    await world.run()
    assert (await world.ask("stranger", "present")).orders == ()
    assert world.outcomes() == {}


async def test_a_node_that_a_restarted_seeder_has_not_heard_of_yet_keeps_its_orders(world: World) -> None:
    await world.run()
    assert (await world.preheats.work("a", b'{"version": "of before"}')).version == "of before"


@pytest.mark.parametrize("query", ["share=nan", "share=2", "images=inf", "images=0", "images=x", "share=-1"])
async def test_a_suggestion_asked_for_with_nonsense_is_refused(query: str) -> None:
    app = web.Application(middlewares=[render_site_errors])
    add_preheat_routes(app, Answers())
    async with TestClient(TestServer(app)) as client:
        answer = await client.get(f"/site/v1/suggested-preheats?{query}")
        assert answer.status == 400


async def test_prometheus_is_told_of_nodes_bytes_runs_failures_and_the_last_success(world: World) -> None:
    rule = f"told-{secrets.token_hex(4)}"  # metrics outlive tests

    def metric(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"imagedist_preheat_{name}", {"rule": rule, **labels})

    world.join("a", "b")
    await world.run(name=rule)
    await world.ask("a")
    await world.ask("a", "present")
    await world.ask("b")
    await world.ask("b", "failed", "no room")
    outcomes = {each: metric("targets", outcome=each) for each in ("done", "failed", "gone")}
    assert outcomes == {"done": 1.0, "failed": 1.0, "gone": 0.0}
    assert (metric("failures_total"), metric("success_timestamp_seconds")) == (1.0, None)
    assert {each: metric("runs_total", outcome=each) for each in ("begun", "incomplete")} == {
        "begun": 1.0,
        "incomplete": 1.0,
    }

    world.clock.now += 60
    await world.run(name=rule)
    for node_id in ("a", "b"):
        await world.ask(node_id)
        await world.ask(node_id, "present")
    assert metric("success_timestamp_seconds") == world.clock.now
    assert metric("runs_total", outcome="done") == 1.0
    assert metric("failures_total") == 1.0
    assert metric("run_bytes") == 0.0
    await world.preheats.remove(rule)
    assert (metric("targets", outcome="done"), metric("success_timestamp_seconds")) == (None, None)
