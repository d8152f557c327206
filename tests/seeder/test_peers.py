"""Both stores of peers keep the same promises: that in memory, and that in a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagedist.config import Address
from imagedist.errors import InputError, SourceError
from imagedist.swarm import bencode
from seeder.tracker import Peers, PeersInMemory, Place, Tracker, open_peers
from seeder.tracker.announce import Announce
from seeder.tracker.redis import PeersInRedis

INFOHASH = b"x" * 20
LIFE_SECONDS = 90.0
RACK = Place("a", "r1")


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def redis_server(directory: Path) -> AsyncIterator[str]:
    """A Redis of its own on a Unix socket; its URL."""

    path = directory / "redis.sock"
    process = await asyncio.create_subprocess_exec(
        "redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(directory),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"eady to accept connections" not in await process.stdout.readline():
                pass
        yield f"unix://{path}"
    finally:
        process.terminate()
        await process.communicate()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.e2e("redis-server"))])
async def peers(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> AsyncIterator[Peers]:
    if request.param == "memory":
        yield PeersInMemory(LIFE_SECONDS, clock=clock)
        return
    async with redis_server(tmp_path) as url:
        opened = PeersInRedis(url, "bj", LIFE_SECONDS, clock=clock)
        yield opened
        await opened.close()


def announce(number: int, *, left: int = 1, event: str = "") -> Announce:
    query = f"info_hash={'x' * 20}&port=6882&left={left}&event={event}"
    return Announce.parse(query, f"10.0.{number // 256}.{number % 256}", "10.0.0.5")


async def hosts(peers: Peers, place: Place = RACK, *, seeds: bool = True, count: int = 50) -> set[bytes]:
    found = await peers.candidates(INFOHASH, place, seeds=seeds, count=count)
    return {peer.endpoint.host for peer in found}


async def test_what_was_admitted_is_drawn_and_counted(peers: Peers) -> None:
    await peers.admit(announce(1), RACK)
    await peers.admit(announce(2, left=0), Place("a", "r2"))
    await peers.admit(announce(3), Place())
    assert await hosts(peers) == {bytes([10, 0, 0, n]) for n in (1, 2, 3)}
    assert await hosts(peers, seeds=False) == {bytes([10, 0, 0, n]) for n in (1, 3)}
    assert (await peers.counts(INFOHASH))[:2] == (1, 2)
    assert (await peers.counts(b"y" * 20))[:2] == (0, 0)
    found = {peer.endpoint.host[-1]: peer for peer in await peers.candidates(INFOHASH, RACK, seeds=True, count=50)}
    assert [(found[n].place, found[n].is_seed) for n in (1, 2, 3)] == [
        (RACK, False),
        (Place("a", "r2"), True),
        (Place(), False),
    ]


async def test_a_peer_of_the_rack_is_drawn_however_large_the_site(peers: Peers) -> None:
    for number in range(300):
        await peers.admit(announce(number), Place("b", f"r{number}"))
    await peers.admit(announce(1000), RACK)
    assert announce(1000).peer.host in await hosts(peers, count=4)
    assert 2 <= len(await hosts(peers, count=4)) <= 5


async def test_a_partial_peer_becomes_a_seed_and_is_counted_once(peers: Peers) -> None:
    await peers.admit(announce(1), RACK)
    await peers.admit(announce(1, left=0, event="completed"), RACK)
    assert await peers.counts(INFOHASH) == (1, 0, 1)
    assert await hosts(peers, seeds=False) == set()


async def test_a_stopped_peer_is_gone(peers: Peers) -> None:
    await peers.admit(announce(1), RACK)
    await peers.admit(announce(2), RACK)
    await peers.remove(announce(1, event="stopped"), RACK)
    await peers.remove(announce(9, event="stopped"), RACK)
    assert await hosts(peers) == {announce(2).peer.host}
    assert (await peers.counts(INFOHASH))[:2] == (0, 1)


async def test_a_peer_that_missed_its_announces_is_not_drawn(peers: Peers, clock: Clock) -> None:
    await peers.admit(announce(1), RACK)
    clock.now += LIFE_SECONDS - 10
    await peers.admit(announce(2), RACK)
    clock.now += 20
    assert await hosts(peers) == {announce(2).peer.host}
    assert (await peers.counts(INFOHASH))[:2] == (0, 1)


@pytest.mark.e2e("redis-server")
async def test_trackers_of_a_site_share_their_peers_and_sites_do_not(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as url:
        one, other, elsewhere = (PeersInRedis(url, site, LIFE_SECONDS) for site in ("bj", "bj", "sh"))
        await one.admit(announce(1), RACK)
        assert await hosts(other) == {announce(1).peer.host}
        assert await hosts(elsewhere) == set()
        for each in (one, other, elsewhere):
            await each.close()


@pytest.mark.e2e("redis-server")
async def test_while_redis_is_gone_the_sites_seeder_is_still_handed_out(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as url:
        peers = PeersInRedis(url, "bj", LIFE_SECONDS)
        tracker = Tracker(30, Address("0.0.0.0", 6881), lambda infohash: True, peers)
        await tracker.admit(announce(1))
        assert len(await _peers(tracker)) == 12
    assert await _peers(tracker) == bytes([10, 0, 0, 5]) + (6881).to_bytes(2, "big")
    with pytest.raises(SourceError, match=r"tracker\.peers"):
        await tracker.admit(announce(3))
    await peers.close()


async def _peers(tracker: Tracker) -> bytes:
    answer = bencode.decode(await tracker.answer(announce(2)))
    assert isinstance(answer, dict)
    compact = answer[b"peers"]
    assert isinstance(compact, bytes)
    return compact


@pytest.mark.parametrize(
    ("where", "error"), [("redis://localhost:x", InputError), ("memory", None), ("redis://localhost/0", None)]
)
async def test_the_place_of_the_peers_is_read_from_the_configuration(where: str, error: type[Exception] | None) -> None:
    if error is not None:
        with pytest.raises(error, match=r"tracker\.peers"):
            open_peers(where, "bj", 30)
    else:
        await open_peers(where, "bj", 30).close()
