"""Whatever comes as an announce or a scrape is answered in bencode and counted by one outcome."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote_from_bytes

import aiohttp
import prometheus_client
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from imagedist.config import Address
from imagedist.errors import InputError
from imagedist.service import serving
from imagedist.swarm import bencode
from seeder.tracker import PeersInMemory, Tracker, add_tracker_routes
from seeder.tracker.announce import MAX_HANDED_OUT, Announce
from tests.support.counts import count

KNOWN = b"k" * 20
_OUTCOMES = ("answered", "stopped", "malformed", "foreign", "unknown", "full", "failed")

_infohashes = st.one_of(st.just(KNOWN), st.binary(max_size=40)).map(quote_from_bytes)
_numbers = st.one_of(st.integers(-(1 << 70), 1 << 70).map(str), st.text("0123456789-+_.٣ ", max_size=30))
_values = st.one_of(_infohashes, _numbers, st.sampled_from(["started", "stopped", "completed", "paused", "%", "%zz"]))
_names = st.sampled_from(
    [
        "info_hash",
        "port",
        "left",
        "numwant",
        "event",
        "peer_id",
        "ip",
        "compact",
        "uploaded",
        "trackerid",
        "",
        "info%68",
    ]
)
_pairs = st.tuples(_names, _values).map("=".join)
_likely = st.tuples(_infohashes, _numbers, st.lists(_pairs, max_size=4)).map(
    lambda parts: "&".join([f"info_hash={parts[0]}", f"port={parts[1]}", *parts[2]])
)
_queries = st.one_of(_likely, st.lists(_pairs, max_size=8).map("&".join), st.text(max_size=200))


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@settings(max_examples=count(300, 20_000), deadline=None, derandomize=count(1, 0) == 1)
@given(_queries)
def test_any_query_is_an_announce_or_an_input_error(query: str) -> None:
    try:
        announce = Announce.parse(query, "10.0.0.1", "10.0.0.5")
    except InputError:
        return
    assert len(announce.infohash) == 20
    assert announce.peer.compact[:4] == bytes([10, 0, 0, 1])
    assert 0 < int.from_bytes(announce.peer.compact[4:], "big") < 1 << 16
    assert 0 <= announce.wanted <= MAX_HANDED_OUT


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
def test_any_request_over_http_is_answered_in_bencode_and_counted_once() -> None:
    @settings(
        max_examples=count(60, 3_000),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=count(1, 0) == 1,
    )
    @given(st.sampled_from(["announce", "scrape"]), _queries)
    def ask(path: str, query: str) -> None:
        encoded = quote_from_bytes(query.encode("utf-8", "surrogatepass"), safe="=&%-._~+") if query else ""
        loop.run_until_complete(_asked(address, path, encoded))

    tracker = Tracker(
        30, Address("127.0.0.1", 6881), lambda infohash: False, PeersInMemory(90), is_known=lambda each: each == KNOWN
    )
    app = web.Application()
    add_tracker_routes(app, tracker)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        server = serving(app, Address("127.0.0.1", 0))
        address = loop.run_until_complete(server.__aenter__())
        try:
            ask()
        finally:
            loop.run_until_complete(server.__aexit__(None, None, None))
    assert isinstance(tracker.peers, PeersInMemory)
    assert repr(tracker.peers).startswith(("<PeersInMemory: 0 ", "<PeersInMemory: 1 "))


async def _asked(address: object, path: str, query: str) -> None:
    before = _counted()
    async with aiohttp.ClientSession() as client:
        async with client.get(URL(f"http://{address}/{path}?{query}", encoded=True)) as response:
            assert response.status == 200
            answer: Any = bencode.decode(await response.read())
    counted = [name for name, number in _counted().items() if number != before[name]]
    if path == "scrape":
        assert counted == []
    elif b"failure reason" in answer:
        assert counted in (["malformed"], ["unknown"])
    else:
        assert counted in (["answered"], ["stopped"])
        assert len(answer[b"peers"]) % 6 == 0


def _counted() -> dict[str, float]:
    read = prometheus_client.REGISTRY.get_sample_value
    return {name: read("imagedist_tracker_announces_total", {"outcome": name}) or 0.0 for name in _OUTCOMES}
