"""A real tracker tells who is in a swarm, and what is no such answer is not believed."""

from __future__ import annotations

from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from imagedist.config import Address
from imagedist.errors import SourceError
from imagedist.service import serving
from imagedist.site import Site
from imagedist.site.scrape import parse_scrape
from imagedist.swarm import bencode
from seeder.tracker import Tracker, add_tracker_routes, open_peers

INFOHASH = bytes(range(200, 220))  # every byte of it needs quoting


async def test_who_is_in_a_swarm_is_told_by_the_first_tracker_that_answers() -> None:
    tracker = Tracker(30, Address("127.0.0.1", 6881), lambda infohash: True, open_peers("memory", "bj", 30))
    app = web.Application()
    add_tracker_routes(app, tracker)
    async with serving(app, Address("127.0.0.1", 0)) as address:
        site = Site([], ["http://127.0.0.1:9", f"http://{address}"], "n1")
        try:
            assert await site.seeders.scrape(INFOHASH) == (1, 0)
            async with aiohttp.ClientSession() as client:
                for port, left in ((7001, 5), (7002, 0), (7003, 9)):
                    query = f"info_hash={quote(INFOHASH)}&port={port}&left={left}"
                    await (await client.get(URL(f"http://{address}/announce?{query}", encoded=True))).read()
            assert await site.seeders.scrape(INFOHASH) == (2, 2)
        finally:
            await site.close()


@pytest.mark.parametrize("answer", [b"<html>", bencode.encode({b"failure reason": b"full"}), bencode.encode([])])
def test_what_is_no_answer_to_a_scrape_is_refused(answer: bytes) -> None:
    with pytest.raises(SourceError, match="scrape"):
        parse_scrape(answer, INFOHASH)


@pytest.mark.parametrize(
    ("files", "counts"),
    [
        ({}, (0, 0)),
        ({INFOHASH: {b"complete": 1, b"incomplete": 7}}, (1, 7)),
        ({INFOHASH: 1}, (0, 0)),
        ({INFOHASH: {b"incomplete": []}}, (0, 0)),
    ],
)
def test_those_are_counted_that_have_it_and_that_want_it(files: bencode.Value, counts: tuple[int, int]) -> None:
    assert parse_scrape(bencode.encode({b"files": files}), INFOHASH) == counts


async def test_without_a_tracker_nobody_can_be_counted() -> None:
    site = Site([], [], "n1")
    with pytest.raises(SourceError, match="no site seeder"):
        await site.seeders.scrape(INFOHASH)
    await site.close()
