"""Ports and directions, tried from both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from imagedist.config import Address
from imagedist.doctor import swarm
from imagedist.nodes import Heartbeat
from imagedist.service import render_site_errors, serving
from seeder.nodes import Nodes
from seeder.reach import add_reach_routes
from seeder.tracker import PeersInMemory, Tracker, add_tracker_routes
from tests.doctor.servers import HERE, answering


@asynccontextmanager
async def listener() -> AsyncIterator[Address]:
    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield Address(*server.sockets[0].getsockname()[:2])


@asynccontextmanager
async def seeder(peer_port: int, nodes: Nodes | None = None) -> AsyncIterator[str]:
    app = web.Application(middlewares=[render_site_errors])
    add_reach_routes(app, nodes or Nodes(), lambda: peer_port)
    add_tracker_routes(app, Tracker(30, Address("127.0.0.1", peer_port), lambda infohash: False, PeersInMemory(90)))
    async with serving(app, HERE) as address:
        yield f"http://{address}"


def codes(findings: list[Any]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in findings]


async def test_both_directions_are_open() -> None:
    nodes = Nodes()
    async with listener() as own, listener() as seed, seeder(seed.port, nodes) as url:
        nodes.beat("n1", Heartbeat(peer_port=own.port), own.host)
        found = await swarm.reach(url, own)
    assert codes(found) == [("ok", "peer-port-open"), ("ok", "inventory"), ("ok", "seeder-peer-port")]


async def test_a_port_that_the_site_cannot_connect_to_is_a_problem() -> None:
    async with listener() as own:
        pass
    async with listener() as seed, seeder(seed.port) as url:
        found = await swarm.reach(url, own)
    assert codes(found) == [("bad", "peer-port-blocked"), ("warn", "inventory"), ("ok", "seeder-peer-port")]
    assert str(own.port) in found[0].fix


async def test_a_seeders_port_that_this_node_cannot_connect_to_is_a_problem() -> None:
    async with listener() as seed:
        pass
    async with listener() as own, seeder(seed.port) as url:
        found = await swarm.reach(url, own)
    assert codes(found) == [("ok", "peer-port-open"), ("warn", "inventory"), ("bad", "seeder-peer-port")]


async def test_neighbours_that_are_not_reached_are_named() -> None:
    async with listener() as gone:
        pass
    nodes = Nodes()
    async with listener() as own, listener() as seed, listener() as neighbour, seeder(seed.port, nodes) as url:
        nodes.beat("n1", Heartbeat(peer_port=own.port), own.host)
        nodes.beat("n2", Heartbeat(peer_port=neighbour.port), neighbour.host)
        assert codes(await swarm.reach(url, own))[3:] == [("ok", "neighbours")]
        nodes.beat("n3", Heartbeat(peer_port=gone.port), gone.host)
        *_, some = await swarm.reach(url, own)
    assert (some.severity, some.code) == ("warn", "neighbours")
    assert f"1 of 2 neighbours let this node in, not {gone} (connection refused)" in some.what


async def test_no_neighbour_that_is_reached_is_a_problem_of_this_node() -> None:
    async with listener() as one, listener() as two:
        pass
    (found,) = await swarm.neighbours([one, two])
    assert found.severity == "bad"
    assert (await swarm.neighbours([one]))[0].severity == "warn", "it may be that one which is down"
    assert await swarm.neighbours([]) == []


async def test_a_seeder_that_tries_no_ports_leaves_it_open() -> None:
    async with answering("not found", status=404) as address:
        found = await swarm.reach(f"http://{address}", Address("127.0.0.1", 6882))
    assert codes(found) == [("unknown", "peer-port-blocked")]


async def test_an_agent_that_lets_no_peers_in_is_a_problem() -> None:
    async with listener() as own:
        assert codes(await swarm.listening(own, is_running=True)) == [("ok", "peer-port")]
    assert codes(await swarm.listening(own, is_running=True)) == [("bad", "peer-port-closed")]
    assert await swarm.listening(own, is_running=False) == [], "that no agent runs is said elsewhere"


async def test_an_address_for_all_interfaces_is_asked_on_loopback() -> None:
    async with listener() as own:
        found = await swarm.listening(Address("0.0.0.0", own.port), is_running=True)
    assert codes(found) == [("ok", "peer-port")]


async def test_a_tracker_answers_a_scrape() -> None:
    async with seeder(6881) as url:
        assert codes(await swarm.tracker(url)) == [("ok", "tracker")]


async def test_what_is_no_tracker_is_a_problem() -> None:
    async with answering("<html>") as address:
        assert codes(await swarm.tracker(f"http://{address}")) == [("bad", "tracker")]
