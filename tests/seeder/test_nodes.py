"""The node inventory remembers who beats, says who stopped, and outlives the seeder."""

from __future__ import annotations

import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import InputError, NotFoundError, OverloadedError
from imagedist.nodes import Disk, Heartbeat
from imagedist.service import serving
from imagedist.site import Site
from seeder import node_rows
from seeder import nodes as module
from seeder.database import Database
from seeder.leading import Leading
from seeder.leases import Leases
from seeder.node_routes import add_node_routes
from seeder.nodes import FORGET_SECONDS, GONE_SECONDS, Nodes
from seeder.tracker.announce import packed


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def inventory(clock: Clock) -> Nodes:
    return Nodes(clock=clock, wall=clock)


def states(nodes: Nodes) -> list[tuple[str, bool, bool]]:
    return [(node.id, node.is_gone, node.is_paused) for node in nodes.describe()]


def test_a_node_is_alive_until_its_heartbeats_stop_then_gone_then_forgotten() -> None:
    clock = Clock()
    nodes = inventory(clock)
    nodes.beat("n2", Heartbeat(version="0.1.0", labels={"zone": "a"}, addresses=("10.0.0.2",)))
    clock.now += GONE_SECONDS - 1
    nodes.beat("n1", Heartbeat())
    assert states(nodes) == [("n1", False, False), ("n2", False, False)]
    assert nodes.describe()[1].labels == {"zone": "a"}
    clock.now += 2
    assert states(nodes) == [("n1", False, False), ("n2", True, False)]
    clock.now += FORGET_SECONDS - 10
    nodes.beat("n1", Heartbeat())
    clock.now += 10
    assert states(nodes) == [("n1", False, False)]


def test_a_newer_agents_unknown_keys_are_ignored() -> None:
    assert Heartbeat.model_validate_json('{"format": 2, "gpu": true, "version": "9"}').version == "9"


@pytest.mark.parametrize("node_id", ["", "../x", "a b", "x" * 129, "-x"])
def test_a_node_id_is_a_plain_name(node_id: str) -> None:
    with pytest.raises(InputError, match="invalid node ID"):
        Nodes().beat(node_id, Heartbeat())


def test_two_hosts_of_one_name_are_told_apart_from_a_node_that_moved(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes()
    for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"):
        nodes.beat("moved", Heartbeat(), address)
    assert caplog.text == ""
    for address in ("10.0.0.3", "10.0.0.4") * 3:
        nodes.beat("cloned", Heartbeat(), address)
    (said,) = caplog.messages
    assert said.startswith("node cloned speaks from 10.0.0.4 and 10.0.0.3 by turns")


def test_a_node_of_another_name_keeps_its_pause_and_is_not_there_twice() -> None:
    nodes = Nodes()
    nodes.beat("n1-0.0.0.0-6882", Heartbeat(), "10.0.0.1")
    nodes.pause("n1-0.0.0.0-6882", is_paused=True)
    nodes.take_unsaved()
    nodes.beat("n1", Heartbeat(former_id="n1-0.0.0.0-6882"), "10.0.0.2")  # another host of that name
    assert states(nodes) == [("n1", False, False), ("n1-0.0.0.0-6882", False, True)]
    nodes.beat("n1", Heartbeat(former_id="n1-0.0.0.0-6882"), "10.0.0.1")
    assert states(nodes) == [("n1", False, True)]
    unsaved, forgotten = nodes.take_unsaved()
    assert ([(node.id, node.is_paused) for node in unsaved], forgotten) == ([("n1", True)], ["n1-0.0.0.0-6882"])
    nodes.beat("n1", Heartbeat(former_id="n1"), "10.0.0.1")
    assert states(nodes) == [("n1", False, True)]


def test_the_inventory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 1)
    nodes = Nodes()
    nodes.beat("n1", Heartbeat())
    nodes.beat("n1", Heartbeat())
    with pytest.raises(OverloadedError):
        nodes.beat("n2", Heartbeat())


def test_neighbours_are_living_nodes_with_a_peer_port_but_the_one_that_asks() -> None:
    clock = Clock()
    nodes = inventory(clock)
    nodes.beat("gone", Heartbeat(peer_port=6882), "10.0.0.8")
    clock.now += GONE_SECONDS + 1
    nodes.beat("n1", Heartbeat(peer_port=6882), "10.0.0.1")
    nodes.beat("n2", Heartbeat(peer_port=6882), "10.0.0.2")
    nodes.beat("n3", Heartbeat(peer_port=6883), "10.0.0.1")
    nodes.beat("older", Heartbeat(), "10.0.0.4")
    assert sorted(nodes.neighbours("10.0.0.1", 6882, 5)) == [("10.0.0.1", 6883), ("10.0.0.2", 6882)]
    assert len(nodes.neighbours("10.0.0.9", 6882, 2)) == 2
    assert nodes.has("10.0.0.2", 6882)
    assert not nodes.has("10.0.0.8", 6882)


def test_a_nodes_labels_say_where_its_address_stands_while_it_lives() -> None:
    clock = Clock()
    nodes = inventory(clock)
    nodes.beat("one", Heartbeat(labels={"zone": "a", "rack": "r12", "else": "x"}), "10.0.0.7")
    nodes.beat("two", Heartbeat(), "fd00::1")
    assert nodes.place_of(bytes([10, 0, 0, 7])) == ("a", "r12")
    assert nodes.place_of(packed("fd00::1")) == ("", "")
    clock.now += GONE_SECONDS + 1
    assert all(node.is_gone for node in nodes.describe())
    assert nodes.place_of(bytes([10, 0, 0, 7])) == ("", "")


def test_who_comes_goes_is_paused_or_has_other_labels_is_told() -> None:
    clock = Clock()
    nodes, told = inventory(clock), list[str]()
    nodes.changed.append(told.append)
    nodes.beat("n1", Heartbeat())
    nodes.beat("n1", Heartbeat(cached_blobs=3))
    assert told == ["n1"]
    nodes.beat("n1", Heartbeat(labels={"zone": "a"}))
    nodes.pause("n1", True)
    clock.now += GONE_SECONDS + 1
    nodes.describe()
    nodes.forget("n1")
    assert told == ["n1"] * 5
    with pytest.raises(NotFoundError, match="no node n1"):
        nodes.pause("n1", True)


async def test_the_inventory_outlives_the_seeder_with_pauses_and_without_the_forgotten(database_url: str) -> None:
    clock = Clock(1000.0)
    disks = {"blobs": Disk(total_bytes=10, free_bytes=3)}
    first = inventory(clock)
    database = await Database.open(database_url)
    first.beat("gone", Heartbeat(labels={"zone": "b"}))
    clock.now += GONE_SECONDS + 1
    first.beat("n1", Heartbeat(labels={"zone": "a"}, disks=disks), "10.0.0.1")
    first.beat("n2", Heartbeat())
    first.beat("n3", Heartbeat())
    first.pause("n1", True)
    await node_rows.flush(first, database)
    first.forget("n3")
    await node_rows.flush(first, database)
    await database.close()  # killed: nothing more is written

    clock.now += 10 * GONE_SECONDS  # the seeder was down: no node's fault
    database = await Database.open(database_url)
    again = inventory(clock)
    leading = Leading(database, Leases(database))
    await leading.take()
    async with node_rows.kept(again, database, leading):
        assert states(again) == [("gone", True, False), ("n1", False, True), ("n2", False, False)]
        assert again.describe()[1].disks == disks
        clock.now += GONE_SECONDS + 1
        again.beat("n2", Heartbeat())
        assert states(again) == [("gone", True, False), ("n1", True, True), ("n2", False, False)]
    await database.close()


async def test_a_row_is_written_when_something_matters_or_a_minute_has_passed() -> None:
    clock = Clock()
    nodes = inventory(clock)
    nodes.beat("n1", Heartbeat())
    assert [node.id for node in nodes.take_unsaved()[0]] == ["n1"]
    clock.now += 15
    nodes.beat("n1", Heartbeat(cached_blobs=1))
    assert nodes.take_unsaved() == ([], [])
    nodes.pause("n1", True)
    taken = nodes.take_unsaved()
    assert [node.is_paused for node in taken[0]] == [True]
    nodes.give_back(*taken)  # the disk was full
    assert nodes.take_unsaved() == taken
    clock.now += 60
    nodes.beat("n1", Heartbeat(cached_blobs=2))
    assert [node.heartbeat.cached_blobs for node in nodes.take_unsaved()[0]] == [2]


async def test_a_heartbeat_is_remembered_with_the_address_it_came_from() -> None:
    app = web.Application()
    nodes = Nodes()
    add_node_routes(app, nodes)
    async with serving(app, Address("127.0.0.1", 0)) as address:
        site = Site((), (f"http://{address}",), "n1")
        await site.seeders.heartbeat(Heartbeat(peer_port=6882))
        await site.close()
    assert nodes.neighbours("10.0.0.1", 1, 5) == [("127.0.0.1", 6882)]
