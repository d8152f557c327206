"""The benchmark of the tracker: announces as libtorrent makes them, and a run with few peers."""

from __future__ import annotations

import pytest

from bench.announcing import host_of, request_of
from bench.result import Result
from bench.tracker import EACH, KEPT, REDIS, Scale, run
from seeder.tracker.announce import Announce, Endpoint


def test_every_peer_is_another_endpoint_and_no_host_has_too_many() -> None:
    seen = set()
    for peer in range(10_000):
        query = request_of(bytes(20), peer, is_seed=False, event="", is_kept=True).split(b" ")[1].decode()
        seen.add(Announce.parse(query.partition("?")[2], host_of(peer), "127.0.0.1").peer)
    assert len(seen) == 10_000
    assert {host_of(peer) for peer in range(10_000)} == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


def test_an_announce_says_what_a_peer_is() -> None:
    infohash = bytes(range(20))
    request = request_of(infohash, 7, is_seed=True, event="started", is_kept=False)
    query = request.split(b" ")[1].decode().partition("?")[2]
    announce = Announce.parse(query, "127.0.0.2", "127.0.0.1")
    assert (announce.infohash, announce.is_seed) == (infohash, True)
    assert announce.peer == Endpoint.of("127.0.0.2", 10_007)
    assert b"Connection: close\r\n" in request


@pytest.mark.e2e("redis-server")
def test_announces_are_counted_for_each_way_to_ask() -> None:
    kept: list[Result] = []
    result = run(Scale(peers=100, rounds=1, seconds=1.0), lambda line: None, kept.append)
    assert [sum(len(row.runs) for row in each.contestants) for each in kept] == [1, 2, 3]
    assert [row.name for row in result.contestants] == [KEPT, EACH, REDIS]
    for row in result.contestants:
        assert row.not_run is None
        assert row.summary["announces/s"] > 0
    assert "memory of 1,000 peers" in [verdict.what for verdict in result.verdicts]
