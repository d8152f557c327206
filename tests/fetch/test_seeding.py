"""Until when a node seeds: time, ratio and room, what wakes a blob again, and what outlives the process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagedist.config import Address, SeedingTable
from imagedist.fetch.seeding import Seeding
from imagedist.fetch.seeds import Seeds
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.swarm.memory_session import MemorySession, MemorySwarm
from tests.swarm.blobs import Blob, make_blob, make_directory

SIZE_BYTES = 100_000
HOUR = 3600.0
A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def seeds(clock: Clock, **keys: object) -> Seeds:
    return Seeds(SeedingTable.model_validate(keys), clock)


def test_a_blob_is_seeded_for_its_time_since_it_was_last_asked_for() -> None:
    clock = Clock()
    kept = seeds(clock, time="2h")
    kept.began(A, SIZE_BYTES)
    clock.now += 1.5 * HOUR
    assert not kept.asked(A)
    clock.now += 1.9 * HOUR
    assert kept.end() == []
    clock.now += 0.2 * HOUR
    assert kept.end() == [(A, "time")]
    assert kept.is_over(A)
    assert kept.end() == []
    assert kept.asked(A)
    kept.began(A, SIZE_BYTES)
    clock.now += 1.9 * HOUR
    assert kept.end() == []


def test_a_blob_is_seeded_until_its_ratio_was_given_since_it_was_last_asked_for() -> None:
    clock = Clock()
    kept = seeds(clock, time="none", ratio=2)
    kept.began(A, SIZE_BYTES)
    kept.given(A, 2 * SIZE_BYTES - 1)
    assert kept.end() == []
    kept.asked(A)
    kept.given(A, 2 * SIZE_BYTES - 1)
    clock.now += 1000 * HOUR
    assert kept.end() == []
    kept.given(A, 1)
    assert kept.end() == [(A, "ratio")]


@pytest.mark.parametrize("bound", [{"max_torrents": 2}, {"quota": 2 * SIZE_BYTES}])
def test_of_too_many_those_go_that_nobody_has_wanted_for_the_longest_time(bound: dict[str, int]) -> None:
    clock = Clock()
    kept = seeds(clock, **bound)
    for digest in (A, B, C):
        kept.began(digest, SIZE_BYTES)
        clock.now += 1
    kept.given(A, 1)  # a peer wants the oldest
    assert kept.end() == [(B, "room")]
    assert len(kept) == 2


def test_what_is_known_outlives_the_process_but_not_the_blob() -> None:
    clock = Clock()
    before = seeds(clock, ratio=1, time="2h")
    for digest in (A, B, C):
        before.began(digest, SIZE_BYTES)
    before.given(A, SIZE_BYTES)
    before.given(B, SIZE_BYTES - 1)
    before.end()
    clock.now += HOUR
    after = seeds(clock, ratio=1, time="2h")
    after.load(before.dump(), [A, B])
    after.began(B, SIZE_BYTES)
    assert (after.is_over(A), after.is_over(B), after.is_over(C)) == (True, False, False)
    after.given(B, 1)
    assert after.end() == [(B, "ratio")]
    clock.now += HOUR
    assert before.end() == [(B, "time"), (C, "time")]


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"seeds": {"%s": 1}}' % str(A).encode(), b"\xff"])
def test_a_document_of_something_else_is_not_believed(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        seeds(Clock()).load(document, [A])


class Node:
    """A cache with blobs in it, their seeding, and a clock; opened as often as the test wants."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.swarm = MemorySwarm()
        self.clock = Clock()

    @asynccontextmanager
    async def seeding(self, **keys: object) -> AsyncIterator[tuple[Seeding, MemorySession]]:
        session = await self.swarm.open(Address("127.0.0.1", 0))
        store = BlobStore(self.directory / "node")
        seeding = Seeding(store, session, (), SeedingTable.model_validate(keys), self.clock)
        await seeding.start()
        try:
            yield seeding, session
        finally:
            await seeding.close()
            await session.close()
            store.close()

    def blob(self, number: int = 1) -> Blob:
        return make_blob(make_directory(self.directory / "node" / "blobs" / "sha256"), SIZE_BYTES, number)

    @property
    def linked(self) -> set[str]:
        return {path.name for path in (self.directory / "node" / "swarm").iterdir()}

    async def take(self, blob: Blob) -> None:
        """Another node takes the whole blob and leaves."""
        peer = await self.swarm.open(Address("127.0.0.1", 0))
        directory = make_directory(self.directory / f"peer-{self.clock.now}")
        await (await peer.add(blob.torrent, directory)).wait_complete()
        await peer.close()


async def test_what_was_given_often_enough_leaves_the_session_and_stays_in_the_cache(tmp_path: Path) -> None:
    node = Node(tmp_path)
    blob = node.blob()
    async with node.seeding(ratio=1) as (seeding, session):
        await seeding.seed(blob.digest, blob.torrent)
        assert node.linked == {blob.digest.hex}
        await node.take(blob)
        await seeding.tick()
        assert (session.get(blob.digest), node.linked, seeding.given_bytes) == (None, set(), SIZE_BYTES)
        assert (tmp_path / "node" / "blobs" / "sha256" / blob.digest.hex).read_bytes() == blob.content
        assert seeding.asked(blob.digest)
        await seeding.seed_again(blob.digest)
        assert session.get(blob.digest) is not None
        node.clock.now += 1
        await node.take(blob)
        assert seeding.given_bytes == SIZE_BYTES


async def test_a_restarted_node_seeds_only_what_its_time_is_not_over_for(tmp_path: Path) -> None:
    node = Node(tmp_path)
    old, new = node.blob(1), node.blob(2)
    async with node.seeding(time="2h") as (seeding, _):
        await seeding.seed(old.digest, old.torrent)
        node.clock.now += 1.5 * HOUR
        await seeding.seed(new.digest, new.torrent)
    node.clock.now += HOUR
    async with node.seeding(time="2h") as (seeding, session):
        assert session.get(old.digest) is None
        assert session.get(new.digest) is not None
        assert seeding.asked(old.digest)
        await seeding.seed_again(old.digest)
        assert session.get(old.digest) is not None


async def test_a_restarted_node_seeds_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    node = Node(tmp_path)
    blobs = [node.blob(number) for number in range(4)]
    async with node.seeding() as (seeding, session):
        for blob in blobs:
            node.clock.now += 1
            await seeding.seed(blob.digest, blob.torrent)
        assert len(session.transfers()) == 4
    async with node.seeding(max_torrents=2) as (_, session):
        assert {transfer.digest for transfer in session.transfers()} == {blob.digest for blob in blobs[2:]}


async def test_a_broken_journal_costs_nothing_but_what_it_said(tmp_path: Path) -> None:
    node = Node(tmp_path)
    blob = node.blob()
    async with node.seeding() as (seeding, _):
        await seeding.seed(blob.digest, blob.torrent)
    (tmp_path / "node" / "seeds.json").write_bytes(b"{")
    async with node.seeding() as (_, session):
        assert session.get(blob.digest) is not None


async def test_an_evicted_blob_is_forgotten(tmp_path: Path) -> None:
    node = Node(tmp_path)
    blob = node.blob()
    async with node.seeding() as (seeding, session):
        await seeding.seed(blob.digest, blob.torrent)
        await seeding.drop(blob.digest)
        assert (session.get(blob.digest), node.linked, seeding.asked(blob.digest)) == (None, set(), False)
        assert not list((tmp_path / "node" / "torrents").iterdir())
