from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagedist.errors import StorageError
from imagedist.store.blobs import BlobStore


def test_store_says_its_version_and_opens_again(tmp_path: Path) -> None:
    BlobStore(tmp_path)
    assert json.loads((tmp_path / "format").read_bytes()) == {"version": "1.0"}
    BlobStore(tmp_path)


@pytest.mark.parametrize("version", ["0.9", "1.7"])
def test_older_versions_and_newer_minor_ones_are_opened(tmp_path: Path, version: str) -> None:
    (tmp_path / "format").write_text(json.dumps({"version": version, "unknown": 1}))
    BlobStore(tmp_path)
    assert version in (tmp_path / "format").read_text()


def test_directory_of_before_versions_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "partial").mkdir()
    BlobStore(tmp_path)
    assert (tmp_path / "format").exists()


@pytest.mark.parametrize("name", ["index.json", "ingest", "holiday.jpg"])
def test_directory_with_somebody_elses_files_is_refused_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    (tmp_path / "blobs/sha256/notes").touch()
    (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match=f"is no blob store: there is {name} in it; give a directory of its own"):
        BlobStore(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_added_to_a_store_later_does_not_lock_its_owner_out(tmp_path: Path) -> None:
    BlobStore(tmp_path / "store")
    assert (tmp_path / "store").stat().st_mode & 0o007 == 0
    (tmp_path / "store/README").touch()
    BlobStore(tmp_path / "store")


def test_newer_major_version_is_refused_naming_both(tmp_path: Path) -> None:
    (tmp_path / "format").write_text('{"version": "2.1"}')
    with pytest.raises(StorageError, match=r"says version 2\.1, this imagedist knows 1\.x: use a newer imagedist"):
        BlobStore(tmp_path)


def test_damaged_format_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("")
    with pytest.raises(StorageError, match="damaged: remove that file"):
        BlobStore(tmp_path)
