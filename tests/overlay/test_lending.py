"""Layers lent to a program with records of its own: by chain ID, and nobody removes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.oci.digest import Digest
from imagedist.overlay.lending import ChainedLayer, Lending, chained
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import NAME, put
from tests.support import layers

BASE = layers.tar([layers.file("a", b"1")])
TOP = layers.tar([layers.file("b", b"2")])


def lent_top(store: OverlayStore) -> tuple[Lending, ChainedLayer]:
    built = put(store, BASE, TOP)
    lending = Lending(store.root, is_durable=True)
    top = lending.layer(built.image.layers[-1].chain_id)
    assert top is not None
    return lending, top


def test_a_layer_is_found_by_the_chain_that_its_diff_ids_make(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path)
    lending = Lending(tmp_path, is_durable=False)
    assert lending.layer(Digest.of(BASE)) is None

    built = put(store, BASE, TOP)

    base, top = (lending.layer(layer.chain_id) for layer in built.image.layers)
    assert base is not None
    assert top is not None
    assert (base.parent_id, top.parent_id) == ("", base.id)
    assert lending.layer(built.image.layers[1].diff_id) is None


def test_what_is_lent_outlives_rm_gc_and_quota(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path)
    lending, top = lent_top(store)
    lending.settle(top.id)
    assert lending.lend(top) is not None
    base = lending.diff(top.parent_id)

    store.remove(NAME)
    store.gc(quota_bytes=0)
    assert (lending.diff(top.id) / "b").read_bytes() == b"2"
    assert base.is_dir()  # what stands upon it is lent

    lending.take_back(top.id)
    store.gc()
    assert not base.exists()
    assert list(lending.links.iterdir()) == []


def test_an_image_whose_layers_are_lent_is_not_evicted_for_a_quota(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path)
    lending, top = lent_top(store)
    base = lending.layer(Digest.of(BASE))
    assert base is not None
    for layer in (base, top):
        lending.lend(layer)
    store.gc(quota_bytes=0)
    assert len(store.images()) == 1


def test_a_lent_layer_counts_as_synced_after_a_lost_machine(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path)
    lending, top = lent_top(store)
    lending.lend(top)
    (store.root / "overlay-images/images.json").write_text("[]")
    note = tmp_path / "imagedist/unsynced/0.json"
    note.write_text(f'{{"version": 1, "boot": "another", "layers": ["{top.id}"]}}')
    store.gc()
    assert lending.diff(top.id).is_dir()


def test_a_layer_that_is_being_removed_is_not_lent(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path)
    lending, top = lent_top(store)
    store.remove(NAME)
    assert lending.lend(top) is None
    assert lending.names() == {}


def test_a_loan_whose_link_was_lost_is_renewed(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path)
    lending, top = lent_top(store)
    name = lending.lend(top)
    assert name is not None
    (lending.links / name).unlink()
    assert lending.lend_again(top.id)
    assert lending.names() == {top.id: name}
    assert not lending.lend_again("0" * 64)


@pytest.mark.parametrize(
    "record",
    [
        {"id": "f" * 64, "diff-digest": str(Digest.of(b"x"))},
        {"id": Digest.of(b"x").hex},
        {"id": Digest.of(b"x").hex, "diff-digest": "nonsense"},
        {"id": Digest.of(b"x").hex, "diff-digest": str(Digest.of(b"x")), "parent": Digest.of(b"x").hex},
        {"id": Digest.of(b"x").hex, "diff-digest": str(Digest.of(b"x")), "parent": "gone"},
    ],
)
def test_records_that_do_not_add_up_have_no_chain(record: dict[str, str]) -> None:
    assert chained({record["id"]: record}) == []
