from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from imagedist.demo import image as demo_image
from imagedist.demo.image import COMMAND, GREETING, build
from imagedist.demo.layout import BuiltImage, open_layout
from imagedist.demo.tree import expected_tree
from imagedist.errors import ImagedistError, InputError, StorageError
from imagedist.oci.digest import Digest
from tests.demo.conftest import SIZE_BYTES


def test_layers_have_the_digests_and_diff_ids_they_claim(built: BuiltImage) -> None:
    for layer in built.image.layers:
        blob = built.blob(layer.descriptor.digest).read_bytes()
        assert len(blob) == layer.descriptor.size_bytes
        assert Digest.of(blob) == layer.descriptor.digest
        assert Digest.of(gzip.decompress(blob)) == layer.diff_id


def test_an_image_has_the_size_asked_for_and_several_layers(built: BuiltImage) -> None:
    assert built.size_bytes >= SIZE_BYTES
    assert 7 <= len(built.image.layers) <= 8


def test_the_same_files_give_the_same_bytes(built: BuiltImage, tmp_path: Path) -> None:
    again = build(tmp_path / "layout", size_bytes=SIZE_BYTES)

    assert again.image.manifest_digest == built.image.manifest_digest


def test_images_of_different_names_share_their_base_layer_only(built: BuiltImage, tmp_path: Path) -> None:
    other = build(tmp_path / "layout", size_bytes=SIZE_BYTES, name="team/other:2")

    ours = {layer.descriptor.digest for layer in built.image.layers[1:]}
    theirs = {layer.descriptor.digest for layer in other.image.layers[1:]}
    assert not ours & theirs
    assert built.image.layers[0] == other.image.layers[0]


def test_a_complete_layout_is_reused(copied: Path) -> None:
    inode = copied.stat().st_ino

    build(copied, size_bytes=SIZE_BYTES)

    assert copied.stat().st_ino == inode


def test_a_layout_with_a_blob_cut_short_is_built_again(copied: Path) -> None:
    largest = max((copied / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
    largest.write_bytes(b"short")

    rebuilt = build(copied, size_bytes=SIZE_BYTES)

    assert open_layout(copied).image == rebuilt.image


def test_what_a_killed_builder_left_is_removed(copied: Path) -> None:
    leftover = copied.with_name(f".{copied.name}.building")
    leftover.mkdir()
    (leftover / "half").write_bytes(b"written")

    build(copied, size_bytes=SIZE_BYTES)

    assert not leftover.exists()


def test_a_failed_build_leaves_no_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_image, "_PROGRAMS", ("no-such-program",))

    with pytest.raises(StorageError, match="no-such-program"):
        build(tmp_path / "layout", size_bytes=SIZE_BYTES)

    assert not (tmp_path / "layout").exists()
    assert not (tmp_path / ".layout.building").exists()


def test_a_container_prints_the_line_of_the_uppermost_layer(built: BuiltImage) -> None:
    config = json.loads(built.image.config_bytes)
    entry = expected_tree(built)["etc/imagedist-demo"]

    assert tuple(config["config"]["Cmd"]) == COMMAND
    assert entry.sha256 == Digest.of(f"{GREETING}\n".encode()).hex


def test_the_uppermost_layer_hides_replaces_and_links(built: BuiltImage) -> None:
    tree = expected_tree(built)

    names = {name.removeprefix("opt/demo/"): entry for name, entry in tree.items() if name.startswith("opt/demo/")}
    assert "removed" not in names
    assert "removed-directory" not in names
    assert "removed-directory/old" not in names
    assert "opaque/old" not in names
    assert names["opaque/new"].kind == "file"
    assert names["opaque"].mode == 0o750
    assert names["replaced"].mode == 0o600
    assert names["was-a-link"].kind == "directory"
    assert names["kept/old"].kind == "file"
    assert names["kept/same"] == names["kept/new"]
    assert not [name for name in tree if "/.wh." in name]


def test_a_shell_comes_with_its_loader_and_libraries(built: BuiltImage) -> None:
    tree = expected_tree(built)

    shells = [name for name in tree if name.endswith("bin/sh")]
    assert [tree[name].kind for name in shells] == ["file"]


def test_progress_ends_at_the_size_asked_for(built: BuiltImage, reported: list[tuple[int, int]]) -> None:
    assert max(done for done, _ in reported) == SIZE_BYTES
    assert {total for _, total in reported} == {SIZE_BYTES}


def test_a_directory_that_is_no_layout_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an OCI image layout"):
        open_layout(tmp_path)


def test_a_changed_manifest_is_not_trusted(copied: Path, built: BuiltImage) -> None:
    digest = built.image.manifest_digest
    (copied / "blobs/sha256" / digest.hex).write_bytes(built.image.manifest_bytes + b" ")

    with pytest.raises(ImagedistError, match="was changed"):
        open_layout(copied)
