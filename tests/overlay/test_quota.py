from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imagedist.errors import NotFoundError, StorageError
from imagedist.overlay.footprint import footprint_bytes
from imagedist.overlay.locks import ChainLocks
from imagedist.overlay.store import Chain, OverlayStore
from tests.overlay.stores import BASE, begin, build, put, random_layer
from tests.support import layers, unpacking
from tests.support.layers import file, hardlink

MIB = 1 << 20
QUOTA = 10 * MIB


def name(number: int) -> str:
    return f"registry.example/app:{number}"


def fill(store: OverlayStore, *numbers: int, size_bytes: int = 2 * MIB) -> None:
    """Images of one layer each, used in this order."""
    for number in numbers:
        put(store, random_layer(f"f{number}", size_bytes), names=[name(number)], compression="none")
        used(store, number, number)


def used(store: OverlayStore, number: int, seconds: int) -> None:
    os.utime(store.root / "imagedist/used" / store.find(name(number)).id, (seconds, seconds))


def numbers(store: OverlayStore) -> set[int]:
    return {int(one.rpartition(":")[2]) for image in store.images() for one in image.names}


@pytest.fixture
def store(tmp_path: Path) -> OverlayStore:
    return OverlayStore(tmp_path / "store", durability="none", used_by=[tmp_path / "user"], quota_bytes=QUOTA)


def test_images_used_longest_ago_are_evicted_for_a_new_one(store: OverlayStore) -> None:
    fill(store, 1, 2, 3, 4)
    used(store, 1, 100)
    fill(store, 5)
    assert numbers(store) == {1, 3, 4, 5}
    fill(store, 6, size_bytes=4 * MIB)
    assert numbers(store) == {1, 5, 6}
    assert store.used_bytes() <= QUOTA


def test_a_compressed_image_is_expected_to_expand(store: OverlayStore) -> None:
    fill(store, 1, 2, 3, 4)
    with store.building(build(random_layer("new", 3 * MIB // 2)).image, [name(5)]) as chain:
        assert numbers(store) == {3, 4}
        private = chain.directory(chain.missing[0])
        private.rmdir()
        chain.merge(unpacking.extract(layers.tar([]), private))


def test_pulling_again_counts_as_use(store: OverlayStore) -> None:
    fill(store, 1)
    used(store, 1, 1)
    before = (store.root / "imagedist/used" / store.find(name(1)).id).stat().st_mtime
    layer = layers.tar([file("x")])
    put(store, layer, names=[name(2)])
    put(store, layer, names=[name(3)])
    assert store.find(name(2)).id == store.find(name(3)).id
    assert before == 1
    assert (store.root / "imagedist/used" / store.find(name(2)).id).stat().st_mtime > 1e9


def test_a_layer_counts_once_however_many_images_have_it(store: OverlayStore) -> None:
    base = random_layer("base", 4 * MIB)
    put(store, base, names=[name(1)])
    one = store.used_bytes()
    put(store, base, BASE, names=[name(2)])
    assert 4 * MIB <= one <= store.used_bytes() < one + MIB


def test_evicting_an_image_keeps_what_others_need(store: OverlayStore) -> None:
    base = random_layer("base", 4 * MIB)
    put(store, base, names=[name(1)])
    put(store, base, BASE, names=[name(2)])
    used(store, 1, 1)
    used(store, 2, 2)
    collected = store.gc(quota_bytes=5 * MIB)
    assert collected == []
    collected = store.gc(quota_bytes=4 * MIB)
    assert [(one.kind, one.name) for one in collected] == [("image", name(1)), ("image", name(2))]
    assert store.used_bytes() == 0


def test_an_image_that_cannot_fit_is_refused_before_anything_is_evicted(store: OverlayStore) -> None:
    fill(store, 1, 2)
    with pytest.raises(StorageError, match=r"cannot store registry.example/app:1: .* quota of 10485760"):
        put(store, random_layer("big", 11 * MIB), names=[name(3)])
    assert numbers(store) == {1, 2}


def test_an_image_that_turns_out_too_large_gives_its_space_back(store: OverlayStore) -> None:
    fill(store, 1)
    before = store.used_bytes()
    with pytest.raises(StorageError, match=r"raise storage\.quota"):
        put(store, layers.tar([file("zeros", bytes(12 * MIB))]), names=[name(2)])
    assert numbers(store) == {1}
    assert store.used_bytes() == before
    assert len(os.listdir(store.root / "overlay")) == 2


def test_what_another_image_has_meanwhile_is_not_given_back(store: OverlayStore) -> None:
    large = layers.tar([file("zeros", bytes(12 * MIB))])

    def merge(chain: Chain, number: int, tar: bytes) -> None:
        private = chain.directory(chain.missing[number])
        private.rmdir()
        chain.merge(unpacking.extract(tar, private))

    def build_large() -> None:
        with store.building(build(BASE, large).image, [name(2)]) as chain:
            merge(chain, 0, BASE)
            put(store, BASE, names=[name(1)])
            merge(chain, 1, large)

    with pytest.raises(StorageError, match=r"raise storage\.quota"):
        build_large()
    assert set(store.tree(store.find(name(1)))) == {"d", "d/base"}
    assert len(os.listdir(store.root / "overlay")) == 2


def test_what_is_in_use_is_not_evicted_and_named(store: OverlayStore, tmp_path: Path) -> None:
    fill(store, 1, 2, size_bytes=4 * MIB)
    containers = tmp_path / "user/overlay-containers/containers.json"
    containers.parent.mkdir(parents=True)
    containers.write_text(json.dumps([{"id": f"c{number}", "image": store.find(name(number)).id} for number in (1, 2)]))
    with pytest.raises(StorageError, match=rf"in use \({name(1)}: container c1 of .*; {name(2)}: container c2"):
        put(store, random_layer("new", 4 * MIB), names=[name(3)], compression="none")
    containers.write_text(json.dumps([{"id": "c1", "image": store.find(name(1)).id}]))
    put(store, random_layer("new", 4 * MIB), names=[name(3)], compression="none")
    assert numbers(store) == {1, 3}


def test_a_build_under_way_keeps_its_base(store: OverlayStore) -> None:
    base = random_layer("base", 4 * MIB)
    put(store, base, names=[name(1)])
    used(store, 1, 1)
    upon = build(base, BASE)
    with pytest.raises(StorageError, match="not every"), store.building(upon.image, [name(2)]):
        store.gc(quota_bytes=0)
    assert footprint_bytes(store.root / "overlay") > 4 * MIB
    with pytest.raises(NotFoundError):
        store.find(name(1))
    store.gc()
    assert store.used_bytes() == 0


def test_another_image_goes_for_one_that_a_pull_began_to_use(store: OverlayStore) -> None:
    fill(store, 1, 2, 3, size_bytes=3 * MIB)
    with ChainLocks(store.root / "imagedist") as locks:
        locks.use(store.find(name(1)).id, 1, None)
        assert [one.name for one in store.gc(quota_bytes=7 * MIB)] == [name(2)]
    assert numbers(store) == {1, 3}


def test_another_image_goes_for_one_with_a_layer_in_its_middle_that_a_container_uses(
    store: OverlayStore, tmp_path: Path
) -> None:
    put(store, random_layer("base", 3 * MIB), BASE, names=[name(1)])
    used(store, 1, 1)
    fill(store, 2)
    base = store.find(name(1)).layer_ids[0]
    lower = tmp_path / "user/overlay/0123/lower"
    lower.parent.mkdir(parents=True)
    lower.write_text("l/" + (store.root / "overlay" / base / "link").read_text())
    assert [one.name for one in store.gc(quota_bytes=4 * MIB)] == [name(2)]
    assert numbers(store) == {1}


def test_a_dry_run_says_what_would_be_evicted(store: OverlayStore) -> None:
    fill(store, 1, 2, 3)
    told = store.gc(quota_bytes=3 * MIB, dry_run=True)
    assert [one.name for one in told] == [name(1), name(2)]
    assert numbers(store) == {1, 2, 3}
    assert store.gc(quota_bytes=3 * MIB) == told
    assert numbers(store) == {3}


def test_a_file_of_two_names_takes_its_space_once(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="none")
    big = os.urandom(MIB)
    put(store, layers.tar([file("a", big)]), layers.tar([hardlink("b", "a")]), names=[name(1)])
    assert MIB <= store.used_bytes() < MIB + MIB // 4


def test_a_count_that_was_cut_off_is_made_again(store: OverlayStore) -> None:
    fill(store, 1)
    counted = store.used_bytes()
    (note,) = (store.root / "imagedist/layers").iterdir()
    assert note.read_text() == f"{counted}\n"
    note.write_text("20")
    assert store.used_bytes() == counted


def test_what_no_image_has_goes_before_any_image(store: OverlayStore) -> None:
    fill(store, 1, 2)
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(random_layer("left", 4 * MIB), BASE, compression="none"), random_layer("left", 4 * MIB))
    fill(store, 3, size_bytes=4 * MIB)
    assert numbers(store) == {1, 2, 3}
    assert store.used_bytes() <= QUOTA
