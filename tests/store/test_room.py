"""The number in the ledger is what the files take, in however many processes and whatever was killed."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from imagedist.errors import FullError, SourceError
from imagedist.oci.digest import Digest
from imagedist.store import inventory
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.inventory import Item
from imagedist.store.ledger import Ledger
from imagedist.store.writer import BlobWriter

CONTENT = os.urandom(100_000)
DIGEST = Digest.of(CONTENT)


async def put(store: BlobStore, tmp_path: Path, content: bytes) -> Digest:
    digest = Digest.of(content)
    (tmp_path / "source").write_bytes(content)
    await store.adopt(tmp_path / "source", digest, len(content))
    (tmp_path / "source").unlink()
    return digest


def files_bytes(store: BlobStore) -> int:
    """What the counted files take, by looking at them."""
    folders = ("blobs", "partial", "torrents", "manifests", "tags")
    files = [path for folder in folders for path in (store.root / folder).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.suffix != ".size")


class Halfway:
    """A fetch that stops in the middle until ``gate`` opens, and fails if told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.there, self.gate = asyncio.Event(), asyncio.Event()

    async def __call__(self, writer: BlobWriter) -> None:
        await writer.begin(len(CONTENT))
        await writer.write(CONTENT[writer.offset : 50_000])
        self.there.set()
        await self.gate.wait()
        if self.failure:
            raise self.failure
        await writer.write(CONTENT[50_000:])


async def test_room_is_promised_while_a_blob_arrives_and_all_processes_see_it(tmp_path: Path) -> None:
    store, other = BlobStore(tmp_path), BlobStore(tmp_path)
    arrivals, fetch = Arrivals(store), Halfway()
    arrival = await arrivals.join(DIGEST, None, fetch)
    await fetch.there.wait()
    assert files_bytes(store) == 50_000
    assert store.used_bytes == other.used_bytes == len(CONTENT)
    counted = other.space.recount()
    assert (counted.used_bytes, counted.outstanding_bytes) == (len(CONTENT), 50_000)
    assert other.used_bytes == len(CONTENT)
    fetch.gate.set()
    await arrival.wait()
    assert store.used_bytes == files_bytes(store) == other.space.recount().used_bytes == len(CONTENT)


@pytest.mark.parametrize(("failure", "left_bytes"), [(SourceError("cut"), 50_000), (FullError("disk"), 0)])
async def test_room_that_was_not_used_is_given_back(tmp_path: Path, failure: Exception, left_bytes: int) -> None:
    store = BlobStore(tmp_path)
    fetch = Halfway(failure)
    fetch.gate.set()
    with pytest.raises(type(failure)):
        await (await Arrivals(store).join(DIGEST, None, fetch)).wait()
    assert store.used_bytes == files_bytes(store) == store.space.recount().used_bytes == left_bytes


async def test_two_processes_share_one_quota(tmp_path: Path) -> None:
    ours, theirs = (BlobStore(tmp_path / "store", quota_bytes=100) for _ in range(2))
    first = await put(ours, tmp_path, b"a" * 40)
    await put(theirs, tmp_path, b"b" * 40)
    await put(ours, tmp_path, b"c" * 40)
    assert not theirs.has(first)
    assert ours.used_bytes == theirs.used_bytes == files_bytes(ours) == 80


async def test_order_of_use_is_that_of_all_processes_and_survives_a_restart(tmp_path: Path) -> None:
    ours, theirs = (BlobStore(tmp_path / "store", quota_bytes=30) for _ in range(2))
    first, second, third = [await put(ours, tmp_path, bytes([n]) * 10) for n in range(3)]
    await (await theirs.open(first)).close()
    restarted = BlobStore(tmp_path / "store", quota_bytes=30)
    await (await restarted.open(second)).close()
    await put(restarted, tmp_path, b"x" * 10)
    assert [restarted.has(digest) for digest in (first, second, third)] == [True, True, False]


async def test_what_lies_beside_the_blobs_counts_each_inode_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store")
    digest = await put(store, tmp_path, b"layer")
    (store.root / "swarm").mkdir()
    os.link(store.path(digest), store.root / "swarm" / digest.hex)
    store.ledger.write(store.root / "torrents" / f"{digest.hex}.torrent", b"torrent")
    store.ledger.write(store.root / "torrents" / f"{digest.hex}.torrent", b"longer torrent")
    assert store.used_bytes == store.space.recount().used_bytes == len(b"layer" + b"longer torrent")
    store.ledger.unlink(store.root / "torrents" / f"{digest.hex}.torrent")
    assert store.used_bytes == len(b"layer")


async def test_blob_that_is_renamed_while_files_are_counted_counts_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.path(DIGEST).write_bytes(CONTENT)
    os.link(store.path(DIGEST), store.partial_path(DIGEST))  # as a count sees it that began before the rename
    assert store.space.recount().used_bytes == len(CONTENT)


async def test_other_files_are_evicted_in_the_same_order(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", quota_bytes=30)
    manifest = store.root / "manifests" / "old"
    store.ledger.write(manifest, b"m" * 10)
    kept = await put(store, tmp_path, b"k" * 20)
    store.space.others = lambda: [Item(0.0, 10, "manifest", None, (manifest,))]
    await put(store, tmp_path, b"n" * 10)
    assert (manifest.exists(), store.has(kept), store.used_bytes) == (False, True, 30)


async def test_nothing_goes_for_a_blob_that_cannot_fit(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", quota_bytes=30)
    digest, pinned = [await put(store, tmp_path, bytes([n]) * 10) for n in range(2)]
    store.space.keeps = lambda: {pinned}
    with pytest.raises(FullError, match="20 of 30 bytes are in use; raise the quota or unpin"):
        await put(store, tmp_path, b"x" * 25)
    assert store.has(digest)


async def test_pinned_while_the_hook_was_asked_stays(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", quota_bytes=20)
    first, second = [await put(store, tmp_path, bytes([n]) * 10) for n in range(2)]

    async def may_evict(digest: Digest) -> bool:
        store.space.keeps = lambda: {first}
        return True

    store.space.may_evict = may_evict
    await put(store, tmp_path, b"x" * 10)
    assert (store.has(first), store.has(second)) == (True, False)


async def test_so_much_of_the_disk_stays_free(tmp_path: Path) -> None:
    free_bytes = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    greedy = BlobStore(tmp_path / "store", headroom_bytes=free_bytes * 2)
    with pytest.raises(FullError, match=r"on the disk of .* kept; free some space"):
        await put(greedy, tmp_path, b"x")
    await put(BlobStore(tmp_path / "store", headroom_bytes=1), tmp_path, b"x")


async def test_evictions_are_told_over_restarts(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", quota_bytes=10)
    for n in range(3):
        await put(store, tmp_path, bytes([n]) * 10)
    assert BlobStore(tmp_path / "store").ledger.read() == (10, 2, 20)


def test_ledger_of_a_killed_process_is_never_below_the_truth_and_a_count_corrects_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage")
    with ledger.changing() as entry:
        entry.add(10)
        assert Ledger(tmp_path / "usage").read().used_bytes == 10  # what a kill would leave
        entry.add(-10)
        assert Ledger(tmp_path / "usage").read().used_bytes == 10
    assert ledger.read().used_bytes == 0
    (tmp_path / "usage").write_text("nonsense")
    assert ledger.read() == (0, 0, 0)


def test_leftovers_are_removed_when_they_are_old_and_locks_are_not(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    old = time.time() - 2 * inventory.ASIDE_KEPT_SECONDS
    (tmp_path / "tags").mkdir()
    aside, lone_size, lock, young = (
        tmp_path / "tags" / ".1.json.77-88",
        tmp_path / "partial" / "sha256-aa.size",
        tmp_path / "tags" / ".lock",
        tmp_path / "partial" / f".{DIGEST.hex}.size.1-2",
    )
    for path in (aside, lone_size, lock, young):
        path.write_bytes(b"1")
        if path != young:
            os.utime(path, (old, old))
    store.space.recount()
    assert [path.exists() for path in (aside, lone_size, lock, young)] == [False, False, True, True]
