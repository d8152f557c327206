from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagedist.errors import StorageError
from imagedist.overlay.format import owners_here
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import APP, BASE, NAME, put


def write(root: Path, **changes: object) -> None:
    path = root / "imagedist/format"
    path.write_text(json.dumps({"version": "1.0", "owners": owners_here(), **changes}))


def test_the_first_image_writes_the_format(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path, durability="none")
    assert not (tmp_path / "imagedist/format").exists()
    put(store, BASE)
    assert json.loads((tmp_path / "imagedist/format").read_text()) == {"version": "1.0", "owners": owners_here()}
    put(store, BASE, APP)


def test_a_newer_major_version_is_not_touched(tmp_path: Path) -> None:
    put(OverlayStore(tmp_path, durability="none"), BASE)
    write(tmp_path, version="2.0")
    with pytest.raises(StorageError, match=r"version 2\.0, this imagedist knows 1\.x: use a newer imagedist"):
        OverlayStore(tmp_path)


def test_a_newer_minor_version_is_read(tmp_path: Path) -> None:
    put(OverlayStore(tmp_path, durability="none"), BASE)
    write(tmp_path, version="1.9", more=[1])
    assert OverlayStore(tmp_path).find(NAME)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "one"}', '{"version": "1"}', '{"version": "1.0"}'])
def test_a_damaged_format_file_is_named(tmp_path: Path, content: str) -> None:
    OverlayStore(tmp_path)
    (tmp_path / "imagedist/format").write_text(content)
    with pytest.raises(StorageError, match="format is damaged"):
        OverlayStore(tmp_path)


def test_a_store_never_has_owners_of_two_kinds(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path, durability="none")
    put(store, BASE)
    write(tmp_path, owners="one" if owners_here() != "one" else "machine")
    with pytest.raises(StorageError, match="run as the user who made it"):
        put(store, BASE, APP)
    assert store.find(NAME)
