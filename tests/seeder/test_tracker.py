"""The tracker: who is introduced to whom, what is refused, what is forgotten."""

from __future__ import annotations

import ipaddress
import random
from collections import defaultdict
from typing import Any
from urllib.parse import quote_from_bytes

import aiohttp
import prometheus_client
import pytest
from aiohttp import web
from yarl import URL

from imagedist.config import Address
from imagedist.errors import InputError, OverloadedError
from imagedist.service import serving
from imagedist.swarm import bencode
from seeder.tracker import PeersInMemory, Tracker, add_tracker_routes
from seeder.tracker import peers as module
from seeder.tracker.announce import MAX_HANDED_OUT, Announce, Endpoint
from seeder.tracker.tracker import next_announce_seconds

INFOHASH = b"\x00&=%\xff" + b"x" * 15


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_tracker(*, bittorrent: str = "0.0.0.0", seeded: bytes = b"", clock: Clock | None = None) -> Tracker:
    return Tracker(
        30,
        Address(bittorrent, 6881),
        lambda infohash: infohash == seeded,
        PeersInMemory(90, clock=clock or Clock(), dice=random.Random(7)),
        dice=random.Random(7),
    )


def known(tracker: Tracker) -> int:
    assert isinstance(tracker.peers, PeersInMemory)
    return tracker.peers.total


def announce(host: str, port: int = 6882, *, reached: str = "10.0.0.5", **parameters: object) -> Announce:
    query = f"info_hash={quote_from_bytes(INFOHASH)}&port={port}"
    query += "".join(f"&{name}={value}" for name, value in ({"left": 1} | parameters).items())
    return Announce.parse(query, host, reached)


async def ask(tracker: Tracker, asking: Announce) -> Any:
    answer = bencode.decode(await tracker.answer(asking))
    await tracker.admit(asking)
    return answer


def peers(answer: Any) -> set[bytes]:
    four, six = answer[b"peers"], answer[b"peers6"]
    return {four[at : at + 6] for at in range(0, len(four), 6)} | {six[at : at + 18] for at in range(0, len(six), 18)}


def compact(host: str, port: int = 6882) -> bytes:
    return Endpoint.of(host, port).compact


async def test_peers_are_introduced_to_those_who_came_before_and_never_to_themselves() -> None:
    tracker = make_tracker()
    assert peers(await ask(tracker, announce("10.0.0.1"))) == set()
    assert peers(await ask(tracker, announce("10.0.0.2"))) == {compact("10.0.0.1")}
    assert peers(await ask(tracker, announce("10.0.0.1"))) == {compact("10.0.0.2")}


async def test_a_peer_is_not_handed_out_before_its_own_announce_was_answered() -> None:
    tracker = make_tracker()
    first = announce("10.0.0.1")
    await tracker.answer(first)
    assert peers(await ask(tracker, announce("10.0.0.2"))) == set()
    await tracker.admit(first)
    assert peers(await ask(tracker, announce("10.0.0.3"))) == {compact("10.0.0.1"), compact("10.0.0.2")}


async def test_the_seeder_is_added_at_the_address_by_which_the_peer_reached_it() -> None:
    tracker = make_tracker(seeded=INFOHASH)
    answer = await ask(tracker, announce("10.0.0.1", reached="10.0.0.5"))
    assert peers(answer) == {compact("10.0.0.5", 6881)}
    assert answer[b"complete"] == 1
    assert peers(await ask(tracker, announce("10.9.0.1", reached="10.9.0.5"))) == {
        compact("10.9.0.5", 6881),
        compact("10.0.0.1"),
    }


async def test_a_specific_bittorrent_address_is_handed_out_as_it_is() -> None:
    tracker = make_tracker(bittorrent="10.7.7.7", seeded=INFOHASH)
    assert peers(await ask(tracker, announce("10.0.0.1"))) == {compact("10.7.7.7", 6881)}


async def test_the_seeder_is_not_promised_to_a_family_it_does_not_listen_on() -> None:
    tracker = make_tracker(seeded=INFOHASH)
    assert peers(await ask(tracker, announce("fd00::1", reached="fd00::5"))) == set()


async def test_a_peer_on_the_trackers_own_host_is_given_an_address_others_can_reach() -> None:
    tracker = make_tracker()
    await ask(tracker, announce("127.0.0.1", 7000, reached="127.0.0.1"))
    assert peers(await ask(tracker, announce("10.0.0.1"))) == {compact("10.0.0.5", 7000)}
    assert peers(await ask(tracker, announce("127.0.0.2", reached="127.0.0.1"))) == {
        compact("127.0.0.1", 7000),
        compact("10.0.0.1"),
    }


async def test_ipv6_peers_come_in_their_own_list() -> None:
    tracker = make_tracker()
    await ask(tracker, announce("fd00::1"))
    answer = await ask(tracker, announce("::ffff:10.0.0.2"))
    assert (answer[b"peers"], answer[b"peers6"]) == (b"", compact("fd00::1"))
    assert (await ask(tracker, announce("fd00::3")))[b"peers"] == compact("10.0.0.2")


async def test_a_seed_is_not_told_of_other_seeds() -> None:
    tracker = make_tracker(seeded=INFOHASH)
    await ask(tracker, announce("10.0.0.1", left=0))
    await ask(tracker, announce("10.0.0.2", left=5))
    answer = await ask(tracker, announce("10.0.0.3", left=0))
    assert peers(answer) == {compact("10.0.0.2")}
    assert (answer[b"complete"], answer[b"incomplete"]) == (2, 1)


async def test_who_begins_is_asked_to_come_again_soon_and_after_that_as_all_others() -> None:
    tracker = make_tracker()
    assert 6 <= (await ask(tracker, announce("10.0.0.1", event="started")))[b"interval"] <= 8
    assert 30 <= (await ask(tracker, announce("10.0.0.1")))[b"interval"] <= 33
    assert 30 <= (await ask(tracker, announce("10.0.0.2", event="started", left=0)))[b"interval"] <= 33


def test_the_more_begin_at_once_the_later_they_come_again() -> None:
    dice = random.Random(7)
    assert 6 <= next_announce_seconds(30, dice, 64) <= 8
    assert 8 <= next_announce_seconds(30, dice, 1000) <= 10
    assert 30 <= next_announce_seconds(30, dice, 20_000) <= 33
    assert 5 <= next_announce_seconds(5, dice, 1) <= 5


async def test_nodes_that_begin_together_have_about_as_many_neighbours_once_they_have_come_again() -> None:
    tracker = make_tracker(seeded=INFOHASH)
    neighbours: dict[bytes, set[bytes]] = defaultdict(set)
    nodes = [f"10.1.0.{number}" for number in range(1, 65)]
    for _ in range(2):
        for host in nodes:
            for other in peers(await ask(tracker, announce(host, numwant=5))) - {compact("10.0.0.5", 6881)}:
                neighbours[compact(host)].add(other)
                neighbours[other].add(compact(host))
    degrees = [len(neighbours[compact(host)]) for host in nodes]
    assert max(degrees) <= 1.5 * min(degrees), "whoever has half as many gets half as much"


async def test_a_stopped_peer_is_forgotten_and_learns_nothing() -> None:
    tracker = make_tracker()
    await ask(tracker, announce("10.0.0.1"))
    await ask(tracker, announce("10.0.0.2"))
    assert peers(await ask(tracker, announce("10.0.0.1", event="stopped"))) == set()
    assert peers(await ask(tracker, announce("10.0.0.3"))) == {compact("10.0.0.2")}
    assert known(tracker) == 2


async def test_a_peer_that_missed_its_announces_is_forgotten() -> None:
    clock = Clock()
    tracker = make_tracker(clock=clock)
    await ask(tracker, announce("10.0.0.1"))
    clock.now += 80
    await ask(tracker, announce("10.0.0.2"))
    clock.now += 20
    assert peers(await ask(tracker, announce("10.0.0.3"))) == {compact("10.0.0.2")}
    clock.now += 1000
    assert peers(await ask(tracker, announce("10.0.0.4"))) == set()
    assert known(tracker) == 1


async def test_an_answer_is_bounded_and_differs_from_peer_to_peer() -> None:
    tracker = make_tracker(seeded=INFOHASH)
    for number in range(200):
        await ask(tracker, announce(f"10.1.{number}.1"))
    answers = [peers(await ask(tracker, announce("10.2.0.1", numwant=numwant))) for numwant in (1000, 1000, -1)]
    assert all(len(answer) == MAX_HANDED_OUT and compact("10.0.0.5", 6881) in answer for answer in answers)
    assert answers[0] != answers[1]
    assert len(peers(await ask(tracker, announce("10.2.0.2", numwant=3)))) == 3
    assert peers(await ask(tracker, announce("10.2.0.3", numwant=0))) == set()


async def test_a_full_tracker_refuses_new_peers_and_keeps_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS", 2)
    tracker = make_tracker()
    await ask(tracker, announce("10.0.0.1"))
    await ask(tracker, announce("10.0.0.2"))
    with pytest.raises(OverloadedError, match="full"):
        await ask(tracker, announce("10.0.0.3"))
    await ask(tracker, announce("10.0.0.1"))
    await ask(tracker, announce("10.0.0.9", event="stopped"))


async def test_one_host_cannot_fill_the_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS_PER_HOST", 2)
    clock = Clock()
    tracker = make_tracker(clock=clock)
    await ask(tracker, announce("10.0.0.1", 1))
    await ask(tracker, announce("10.0.0.1", 2))
    with pytest.raises(OverloadedError, match="one host"):
        await ask(tracker, announce("10.0.0.1", 3))
    await ask(tracker, announce("10.0.0.1", 2))
    await ask(tracker, announce("10.0.0.2", 3))
    await ask(tracker, announce("10.0.0.1", 1, event="stopped"))
    await ask(tracker, announce("10.0.0.1", 3))
    clock.now += 1000
    for port in (4, 5):
        await ask(tracker, announce("10.0.0.1", port))


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", "info_hash"),
        ("info_hash=abc&port=1", "info_hash"),
        (f"info_hash={'a' * 21}&port=1", "info_hash"),
        (f"info_hash={'a' * 20}", "port"),
        (f"info_hash={'a' * 20}&port=0", "port"),
        (f"info_hash={'a' * 20}&port=65536", "port"),
        (f"info_hash={'a' * 20}&port=-1", "port"),
        (f"info_hash={'a' * 20}&port=%31", "port"),
        (f"info_hash={'a' * 20}&port=1&left=x", "left"),
        (f"info_hash={'a' * 20}&port=1&numwant={'9' * 4000}", "numwant"),
    ],
)
def test_a_malformed_announce_names_the_parameter(query: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Announce.parse(query, "10.0.0.1", "10.0.0.5")


async def test_over_http_the_connection_says_who_announces_and_failures_are_bencoded() -> None:
    tracker = Tracker(30, Address("127.0.0.1", 6881), lambda infohash: False, PeersInMemory(90))
    app = web.Application()
    add_tracker_routes(app, tracker)
    quoted = quote_from_bytes(INFOHASH)
    async with serving(app, Address("127.0.0.1", 0)) as address, aiohttp.ClientSession() as client:

        async def get(path: str) -> Any:
            async with client.get(URL(f"http://{address}{path}", encoded=True)) as response:
                return bencode.decode(await response.read())

        await get(f"/announce?info_hash={quoted}&port=7001&left=9&ip=10.66.66.66")
        answer = await get(f"/announce?info_hash={quoted}&port=7002&left=0&event=completed")
        assert answer[b"peers"] == compact("127.0.0.1", 7001)
        assert answer[b"interval"] >= 30
        assert answer[b"min interval"] == 5
        assert await get(f"/scrape?info_hash={quoted}&info_hash=unknown") == {
            b"files": {INFOHASH: {b"complete": 1, b"downloaded": 1, b"incomplete": 1}}
        }
        assert b"info_hash" in (await get("/announce?port=1"))[b"failure reason"]
        assert b"info_hash" in (await get("/scrape"))[b"failure reason"]


async def test_peers_from_outside_the_sites_networks_and_unknown_torrents_are_refused_with_a_counted_reason() -> None:
    tracker = Tracker(
        30,
        Address("0.0.0.0", 6881),
        lambda infohash: False,
        PeersInMemory(90),
        is_known=lambda infohash: infohash == INFOHASH,
        networks=[ipaddress.ip_network("127.0.0.0/30")],
    )
    app = web.Application()
    add_tracker_routes(app, tracker)
    before = {outcome: counted(outcome) for outcome in ("answered", "foreign", "unknown", "malformed")}
    async with serving(app, Address("127.0.0.1", 0)) as address:

        async def get(infohash: bytes, host: str, port: str = "7001") -> Any:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(host, 0))) as client:
                url = f"http://{address}/announce?info_hash={quote_from_bytes(infohash)}&port={port}&left=9"
                async with client.get(URL(url, encoded=True)) as response:
                    return bencode.decode(await response.read())

        assert b"interval" in await get(INFOHASH, "127.0.0.1")
        assert b"tracker.networks" in (await get(INFOHASH, "127.0.0.9"))[b"failure reason"]
        refused = await get(b"y" * 20, "127.0.0.1")
        assert b"no such torrent" in refused[b"failure reason"]
        assert refused[b"interval"] == 5  # else libtorrent comes back in half an hour
        assert b"port" in (await get(INFOHASH, "127.0.0.1", "x"))[b"failure reason"]
    assert {outcome: counted(outcome) - was for outcome, was in before.items()} == dict.fromkeys(before, 1)
    assert known(tracker) == 1


def counted(outcome: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("imagedist_tracker_announces_total", {"outcome": outcome}) or 0.0
