"""The node inventory remembers who beats, and forgets who stopped."""

from __future__ import annotations

import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import InputError, OverloadedError
from imagedist.service import serving
from imagedist.site import Site
from seeder import nodes as module
from seeder.nodes import EXPIRY_SECONDS, Heartbeat, Nodes, add_node_routes
from seeder.tracker.announce import packed


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_node_is_listed_until_its_heartbeats_stop() -> None:
    clock = Clock()
    nodes = Nodes(clock)
    nodes.beat("n2", Heartbeat(version="0.1.0", labels={"zone": "a"}, addresses=("10.0.0.2",)))
    clock.now += EXPIRY_SECONDS - 1
    nodes.beat("n1", Heartbeat())
    assert [node["id"] for node in nodes.describe()] == ["n1", "n2"]
    assert nodes.describe()[1]["labels"] == {"zone": "a"}
    clock.now += 2
    assert [node["id"] for node in nodes.describe()] == ["n1"]


def test_a_newer_agents_unknown_keys_are_ignored() -> None:
    assert Heartbeat.model_validate_json('{"format": 2, "gpu": true, "version": "9"}').version == "9"


@pytest.mark.parametrize("node_id", ["", "../x", "a b", "x" * 129, "-x"])
def test_a_node_id_is_a_plain_name(node_id: str) -> None:
    with pytest.raises(InputError, match="invalid node ID"):
        Nodes().beat(node_id, Heartbeat())


def test_the_inventory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 1)
    nodes = Nodes()
    nodes.beat("n1", Heartbeat())
    nodes.beat("n1", Heartbeat())
    with pytest.raises(OverloadedError):
        nodes.beat("n2", Heartbeat())


def test_neighbours_are_those_with_a_peer_port_but_the_one_that_asks() -> None:
    nodes = Nodes()
    nodes.beat("n1", Heartbeat(peer_port=6882), "10.0.0.1")
    nodes.beat("n2", Heartbeat(peer_port=6882), "10.0.0.2")
    nodes.beat("n3", Heartbeat(peer_port=6883), "10.0.0.1")
    nodes.beat("older", Heartbeat(), "10.0.0.4")
    assert sorted(nodes.neighbours("10.0.0.1", 6882, 5)) == [("10.0.0.1", 6883), ("10.0.0.2", 6882)]
    assert len(nodes.neighbours("10.0.0.9", 6882, 2)) == 2
    assert nodes.describe()[0]["address"] == "10.0.0.1"


async def test_a_heartbeat_is_remembered_with_the_address_it_came_from() -> None:
    app = web.Application()
    nodes = Nodes()
    add_node_routes(app, nodes)
    async with serving(app, Address("127.0.0.1", 0)) as address:
        site = Site((), (f"http://{address}",), "n1")
        await site.heartbeat({"zone": "a"}, "0.1.0", 6882)
        await site.close()
    assert nodes.neighbours("10.0.0.1", 1, 5) == [("127.0.0.1", 6882)]


def test_a_nodes_labels_say_where_its_address_stands_until_it_is_forgotten() -> None:
    now = [0.0]
    nodes = Nodes(lambda: now[0])
    nodes.beat("one", Heartbeat(labels={"zone": "a", "rack": "r12", "else": "x"}), "10.0.0.7")
    nodes.beat("two", Heartbeat(), "fd00::1")
    assert nodes.place_of(bytes([10, 0, 0, 7])) == ("a", "r12")
    assert nodes.place_of(packed("fd00::1")) == ("", "")
    now[0] += EXPIRY_SECONDS + 1
    assert nodes.describe() == []
    assert nodes.place_of(bytes([10, 0, 0, 7])) == ("", "")
