"""Pinned images stay: neither rm nor a quota takes them, until the pin is taken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.errors import InputError, StorageError
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import put, random_layer

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> OverlayStore:
    return OverlayStore(tmp_path / "store", durability="none", quota_bytes=5 * MIB)


def fill(store: OverlayStore, number: int, size_bytes: int = 2 * MIB) -> str:
    name = f"registry.example/app:{number}"
    put(store, random_layer(f"f{number}", size_bytes), names=[name], compression="none")
    return store.find(name).id


def ids(store: OverlayStore) -> set[str]:
    return {image.id for image in store.images()}


def test_a_pinned_image_is_not_evicted_although_it_is_the_oldest(store: OverlayStore) -> None:
    first = fill(store, 1)
    store.pin({first: "pinned by preheat base"})
    second = fill(store, 2)
    third = fill(store, 3)
    assert ids(store) == {first, third}
    store.pin({first: "pinned by preheat base", third: "pinned by preheat base"})
    with pytest.raises(StorageError, match="pinned by preheat base"):
        fill(store, 4)
    store.pin({})
    assert fill(store, 4) in ids(store)
    assert second not in ids(store)


def test_a_pinned_image_is_not_removed_and_says_who_wants_it(store: OverlayStore) -> None:
    first = fill(store, 1)
    store.pin({first: "pinned by preheat base"})
    with pytest.raises(InputError, match="in use, pinned by preheat base"):
        store.remove(first)
    again = OverlayStore(store.root)  # another process
    with pytest.raises(InputError, match="pinned by preheat base"):
        again.remove(first)
    store.pin({})
    assert store.remove(first) is not None
    assert ids(store) == set()


def test_pins_of_images_that_are_not_here_harm_nobody(store: OverlayStore) -> None:
    store.pin({"0" * 64: "pinned by preheat base"})
    first = fill(store, 1)
    assert store.remove(first) is not None
