from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError, NotFoundError, StorageError
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore


async def put(store: BlobStore, tmp_path: Path, content: bytes) -> Digest:
    digest = Digest.of(content)
    source = tmp_path / digest.hex
    source.write_bytes(content)
    await store.adopt(source, digest, len(content))
    return digest


async def test_adopted_file_is_linked_and_readable(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store")
    digest = await put(store, tmp_path, b"layer")
    assert store.has(digest)
    assert store.size_bytes(digest) == 5
    assert store.path(digest).stat().st_ino == (tmp_path / digest.hex).stat().st_ino
    blob = await store.open(digest)
    assert (blob.size_bytes, await blob.read(2, 10), await blob.read(5, 10)) == (5, b"yer", b"")
    await blob.close()


@pytest.mark.parametrize(("content", "size_bytes"), [(b"other", 5), (b"layer", 4)])
async def test_adopt_refuses_wrong_bytes_and_wrong_size(tmp_path: Path, content: bytes, size_bytes: int) -> None:
    store = BlobStore(tmp_path / "store")
    source = tmp_path / "file"
    source.write_bytes(content)
    with pytest.raises(IntegrityError):
        await store.adopt(source, Digest.of(b"layer"), size_bytes)
    assert not store.has(Digest.of(b"layer"))
    assert store.used_bytes == 0


async def test_missing_blob_is_not_found(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(NotFoundError):
        await store.open(Digest.of(b""))
    with pytest.raises(NotFoundError):
        store.size_bytes(Digest.of(b""))


async def test_least_recently_used_goes_first_and_pinned_stays(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", quota_bytes=30)
    first, second, third = [await put(store, tmp_path, bytes([n]) * 10) for n in range(3)]
    await (await store.open(first)).close()
    with store.space.pin(second):
        await put(store, tmp_path, b"x" * 10)
    assert (store.has(first), store.has(second), store.has(third)) == (True, True, False)
    assert store.used_bytes == 30


async def test_pins_are_counted(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = Digest.of(b"")
    with store.space.pin(digest):
        with store.space.pin(digest):
            pass
        assert store.space.is_pinned(digest)
    assert not store.space.is_pinned(digest)


async def test_blob_is_evicted_only_after_the_hook_agreed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", quota_bytes=20)
    seeded, free = [await put(store, tmp_path, bytes([n]) * 10) for n in range(2)]
    asked: list[tuple[Digest, bool]] = []

    async def may_evict(digest: Digest) -> bool:
        asked.append((digest, store.has(digest)))
        return digest != seeded

    store.space.may_evict = may_evict
    await put(store, tmp_path, b"x" * 10)
    assert asked == [(seeded, True), (free, True)]
    assert store.has(seeded)
    assert not store.has(free)


async def test_no_room_names_the_directory_and_the_remedy(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", quota_bytes=10)
    kept = await put(store, tmp_path, b"k" * 8)
    with store.space.pin(kept), pytest.raises(StorageError, match=r"no room .* in .*store.*raise the quota"):
        await put(store, tmp_path, b"y" * 5)
    with pytest.raises(StorageError, match="raise the quota"):
        await put(store, tmp_path, b"z" * 11)
    assert store.has(kept)
    assert store.used_bytes == 8


async def test_evicted_blob_is_read_to_its_end_by_who_has_it_open(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store")
    digest = await put(store, tmp_path, b"layer")
    blob = await store.open(digest)
    await store.remove(digest)
    assert not store.has(digest)
    assert await blob.read(0, 10) == b"layer"
    await blob.close()


async def test_start_counts_what_is_there_and_drops_what_is_malformed(tmp_path: Path) -> None:
    digest = await put(BlobStore(tmp_path / "store"), tmp_path, b"layer")
    directory = tmp_path / "store" / "blobs" / "sha256"
    (directory / "not-a-digest").write_bytes(b"junk")
    (directory / ("0" * 64)).symlink_to("/etc/passwd")
    stale, fresh = (tmp_path / "store" / "partial" / name for name in ("sha256-a", "sha256-b"))
    for partial in (stale, fresh):
        partial.write_bytes(b"part")
    os.utime(stale, (0, time.time() - 48 * 3600))

    store = BlobStore(tmp_path / "store")
    assert [path.name for path in directory.iterdir()] == [digest.hex]
    assert store.used_bytes == len(b"layer") + len(b"part")
    assert (stale.exists(), fresh.exists()) == (False, True)


async def test_blob_committed_by_another_process_is_seen_and_counted(tmp_path: Path) -> None:
    ours, theirs = BlobStore(tmp_path / "store"), BlobStore(tmp_path / "store")
    digest = await put(theirs, tmp_path, b"layer")
    assert ours.has(digest)
    assert ours.used_bytes == 5
    await theirs.remove(digest)
    assert not ours.has(digest)
    assert ours.used_bytes == 0
