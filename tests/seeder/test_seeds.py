"""What the seeder seeds follows the site's blob store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagedist.config import Address
from imagedist.errors import IntegrityError, NotFoundError, StorageError
from imagedist.oci.digest import Digest
from imagedist.swarm import torrent
from seeder.seeds import Seeds
from seeder.uploads import UploadSession
from tests.swarm.blobs import Blob, make_blob


def commit(site_blobs: Path, seed: int = 1) -> Blob:
    """What the proxy leaves behind: the blob and its torrent."""
    blob = make_blob(site_blobs / "blobs" / "sha256", 100_000, seed)
    (site_blobs / "torrents").mkdir(exist_ok=True)
    (site_blobs / "torrents" / f"{blob.digest.hex}.torrent").write_bytes(blob.torrent)
    return blob


def short_infohash(blob: Blob) -> bytes:
    return torrent.parse(blob.torrent).short_infohash


@pytest.fixture
async def session() -> AsyncIterator[UploadSession]:
    session = await UploadSession.open(Address("127.0.0.1", 0))
    yield session
    await session.close()


async def test_a_blob_is_seeded_until_it_is_deleted(session: UploadSession, tmp_path: Path) -> None:
    blob = commit(tmp_path)
    seeds = Seeds(session, tmp_path)
    for _ in range(2):
        await seeds.put(blob.digest, blob.torrent)
    assert seeds.is_seeding(short_infohash(blob))
    assert [each["digest"] for each in seeds.describe()] == [str(blob.digest)]
    for _ in range(2):
        await seeds.delete(blob.digest)
    assert not seeds.is_seeding(short_infohash(blob))
    assert session.get(blob.digest) is None
    assert (tmp_path / "blobs" / "sha256" / blob.digest.hex).exists()


async def test_a_restart_seeds_everything_whose_blob_is_there(session: UploadSession, tmp_path: Path) -> None:
    kept, evicted, other = (commit(tmp_path, seed) for seed in (1, 2, 3))
    (tmp_path / "blobs" / "sha256" / evicted.digest.hex).unlink()
    torrents = tmp_path / "torrents"
    (torrents / f"{'a' * 64}.torrent").write_bytes(b"garbage")
    (torrents / f"{'b' * 64}.torrent").touch()
    (torrents / "README.torrent").write_bytes(b"no digest")
    (torrents / f"{'c' * 64}.torrent").write_bytes(other.torrent)
    seeds = Seeds(session, tmp_path)
    assert not seeds.is_restored
    await seeds.restore()
    assert seeds.is_restored
    assert {upload.facts.digest for upload in session.uploads()} == {kept.digest, other.digest}


async def test_a_site_without_torrents_yet_is_ready(session: UploadSession, tmp_path: Path) -> None:
    seeds = Seeds(session, tmp_path / "new")
    await seeds.restore()
    assert seeds.is_restored


async def test_the_torrent_of_another_blob_is_refused(session: UploadSession, tmp_path: Path) -> None:
    blob = commit(tmp_path)
    with pytest.raises(IntegrityError, match="is that of"):
        await Seeds(session, tmp_path).put(Digest.of(b"another"), blob.torrent)


async def test_a_blob_that_is_not_in_the_store_is_not_seeded(session: UploadSession, tmp_path: Path) -> None:
    blob = commit(tmp_path)
    (tmp_path / "blobs" / "sha256" / blob.digest.hex).unlink()
    seeds = Seeds(session, tmp_path)
    with pytest.raises(NotFoundError, match="fetch it by the proxy first"):
        await seeds.put(blob.digest, blob.torrent)
    assert not seeds.is_seeding(short_infohash(blob))


async def test_a_blob_deleted_while_seeds_are_restored_stays_deleted(session: UploadSession, tmp_path: Path) -> None:
    blob = commit(tmp_path)
    seeds = Seeds(session, tmp_path)
    await seeds.delete(blob.digest)
    await seeds.restore()
    assert session.get(blob.digest) is None
    await seeds.put(blob.digest, blob.torrent)
    assert seeds.is_seeding(short_infohash(blob))


async def test_a_seed_whose_file_failed_is_not_promised_and_can_be_put_again(
    session: UploadSession, tmp_path: Path
) -> None:
    blob = commit(tmp_path)
    seeds = Seeds(session, tmp_path)
    await seeds.put(blob.digest, blob.torrent)
    upload = session.get(blob.digest)
    assert upload
    upload.failed(StorageError("the disk failed"))
    assert not seeds.is_seeding(short_infohash(blob))
    await seeds.put(blob.digest, blob.torrent)
    assert seeds.is_seeding(short_infohash(blob))
