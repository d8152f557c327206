"""What the disk may not have when the power goes: hashed before anybody gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.unsynced import Unsynced, boot_id

CONTENT = b"layer" * 1000
DIGEST = Digest.of(CONTENT)


def note(store: Path, boot: str) -> Path:
    return store / "unsynced" / f"sha256-{DIGEST.hex}.{boot}"


@pytest.mark.parametrize(("content", "is_kept"), [(CONTENT, True), (CONTENT[:-9], False), (b"\0" * 5000, False)])
def test_blob_of_before_a_power_cut_is_kept_only_if_it_is_whole(tmp_path: Path, content: bytes, is_kept: bool) -> None:
    BlobStore(tmp_path).path(DIGEST).write_bytes(content)
    note(tmp_path, "another-boot").touch()
    store = BlobStore(tmp_path)
    assert store.has(DIGEST) == is_kept
    assert store.used_bytes == (len(content) if is_kept else 0)
    assert list((tmp_path / "unsynced").iterdir()) == []


def test_blob_of_a_killed_process_is_synced_not_hashed(tmp_path: Path) -> None:
    BlobStore(tmp_path).path(DIGEST).write_bytes(b"whatever: the page cache outlives a process")
    note(tmp_path, boot_id()).touch()
    store = BlobStore(tmp_path)
    assert store.has(DIGEST)
    store.close()
    assert list((tmp_path / "unsynced").iterdir()) == []


async def test_committed_blob_is_noted_until_it_is_synced(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    await store.adopt(source, DIGEST, len(CONTENT))
    store.close()
    assert store.has(DIGEST)
    assert list((store.root / "unsynced").iterdir()) == []


def test_notes_without_a_blob_and_strange_files_go(tmp_path: Path) -> None:
    (tmp_path / "unsynced").mkdir()
    for name in ("nonsense", f"sha256-{DIGEST.hex}.another-boot"):
        (tmp_path / "unsynced" / name).touch()
    assert Unsynced(tmp_path).wrong(lambda digest: tmp_path / digest.hex) == []
    assert list((tmp_path / "unsynced").iterdir()) == []
