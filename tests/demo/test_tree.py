from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imagedist.demo.layer import LayerWriter
from imagedist.demo.layout import BuiltImage, blob_path, open_layout, put_json, write_index
from imagedist.demo.tree import expected_tree, node_tree
from imagedist.errors import NotFoundError, UnacceptableError
from imagedist.oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from imagedist.oci.reference import Reference

Fill = Callable[[LayerWriter], object]


def _image(layout: Path, *layers: Fill) -> BuiltImage:
    (layout / "blobs/sha256").mkdir(parents=True)
    written = []
    for fill in layers:
        with LayerWriter(layout / "layer") as writer:
            fill(writer)
            layer = writer.finish()
        layer.path.rename(blob_path(layout, layer.digest))
        written.append(layer)
    config = {"rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in written]}}
    descriptors = [
        {"mediaType": f"{OCI_LAYER}+gzip", "digest": str(layer.digest), "size": layer.size_bytes} for layer in written
    ]
    manifest = {"schemaVersion": 2, "config": put_json(layout, config, OCI_CONFIG), "layers": descriptors}
    write_index(layout, put_json(layout, manifest, OCI_MANIFEST), "a:1")
    return open_layout(layout)


def _base(writer: LayerWriter) -> None:
    writer.add_directory("d")
    writer.add_bytes("d/old", b"old")
    writer.add_bytes("f", b"lower")


def test_a_whiteout_hides_what_lies_below(tmp_path: Path) -> None:
    image = _image(tmp_path, _base, lambda writer: writer.add_bytes(".wh.d", b""))

    assert set(expected_tree(image)) == {"f"}


def test_an_opaque_directory_keeps_only_what_comes_with_it(tmp_path: Path) -> None:
    def upper(writer: LayerWriter) -> None:
        writer.add_directory("d")
        writer.add_bytes("d/new", b"new")
        writer.add_bytes("d/.wh..wh..opq", b"")

    assert set(expected_tree(_image(tmp_path, _base, upper))) == {"d", "d/new", "f"}


def test_a_file_in_place_of_a_directory_removes_all_of_it(tmp_path: Path) -> None:
    tree = expected_tree(_image(tmp_path, _base, lambda writer: writer.add_symlink("d", "f")))

    assert set(tree) == {"d", "f"}
    assert tree["d"].target == "f"


def test_a_hard_link_to_a_lower_layer_is_that_file(tmp_path: Path) -> None:
    tree = expected_tree(_image(tmp_path, _base, lambda writer: writer.add_hard_link("g", "f")))

    assert tree["g"] == tree["f"]


def test_an_entry_without_its_directory_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UnacceptableError, match="comes without its directory"):
        expected_tree(_image(tmp_path, lambda writer: writer.add_bytes("nowhere/f", b"")))


def test_a_node_shows_the_tree_its_records_name(tmp_path: Path) -> None:
    image = _image(tmp_path / "layout", _base, lambda writer: writer.add_bytes("f", b"upper", 0o600))
    store = tmp_path / "store"
    for layer in ("lower", "upper"):
        (store / "overlay" / layer / "diff").mkdir(parents=True)
    (store / "overlay/lower/diff/d").mkdir(mode=0o755)
    (store / "overlay/lower/diff/d/old").write_bytes(b"old")
    (store / "overlay/lower/diff/f").write_bytes(b"lower")
    (store / "overlay/upper/diff/f").write_bytes(b"upper")
    (store / "overlay/upper/diff/f").chmod(0o600)
    (store / "overlay-images").mkdir()
    (store / "overlay-layers").mkdir()
    (store / "overlay-images/images.json").write_text(
        json.dumps([{"id": "1", "names": ["registry.test/a:1"], "layer": "upper"}])
    )
    (store / "overlay-layers/layers.json").write_text(json.dumps([{"id": "lower"}, {"id": "upper", "parent": "lower"}]))

    assert node_tree(store, Reference.parse("registry.test/a:1")) == expected_tree(image)
    with pytest.raises(NotFoundError, match="no image registry"):
        node_tree(store, Reference.parse("registry.test/b:1"))
