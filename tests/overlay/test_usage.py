"""What another mount namespace has mounted keeps its layers, and no other store's of the same names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagedist.errors import InputError
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import APP, BASE, NAME, put

pytestmark = pytest.mark.root


@contextmanager
def mounted(script: str, *arguments: Path | str) -> Iterator[None]:
    """A mount namespace in which ``script`` has run, while the block lasts."""
    command = ["unshare", "-m", "sh", "-e", "-c", f"{script}; echo ready; read line", "sh", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.stdin.close()


def lower(store: OverlayStore, root: Path) -> str:
    """The image's layers as containers/storage mounts them: by absolute paths of their short links.

    Args:
        root: where the store is said to be.
    """
    links = [(store.root / "overlay" / one / "link").read_text() for one in store.find(NAME).layer_ids]
    return ":".join(str(root / "overlay/l" / link) for link in reversed(links))


def test_a_mount_of_one_store_leaves_the_same_image_of_another_free(tmp_path: Path) -> None:
    here, there = (OverlayStore(tmp_path / name) for name in ("here", "there"))
    for store in (here, there):
        put(store, BASE, APP)
    (tmp_path / "target").mkdir()
    overlay = 'mount -t overlay overlay -o "lowerdir=$1" "$2"'
    with mounted(overlay, lower(there, there.root), tmp_path / "target"):
        here.remove(NAME)
        with pytest.raises(InputError, match=rf"in use, mounted at {tmp_path / 'target'} \(seen by process"):
            there.remove(NAME)
    there.remove(NAME)


def test_a_store_that_only_another_namespace_has_leaves_the_same_image_free(tmp_path: Path) -> None:
    """As a container engine inside of a container has one."""
    store = OverlayStore(tmp_path / "store")
    put(store, BASE, APP)
    inside = tmp_path / "inside"
    inside.mkdir()
    script = 'mount -t tmpfs tmpfs "$1"; cp -a "$2" "$1/store"; mount -t overlay overlay -o "lowerdir=$3" /mnt'
    with mounted(script, inside, store.root, lower(store, inside / "store")):
        store.remove(NAME)


def test_a_path_that_is_another_store_here_and_ours_there_keeps_ours(tmp_path: Path) -> None:
    here, there = (OverlayStore(tmp_path / name) for name in ("here", "there"))
    for store in (here, there):
        put(store, BASE, APP)
    script = 'mount --bind "$1" "$2"; mount -t overlay overlay -o "lowerdir=$3" /mnt'
    with (
        mounted(script, here.root / "overlay", there.root / "overlay", lower(there, there.root)),
        pytest.raises(InputError, match="in use, mounted at /mnt"),
    ):
        here.remove(NAME)


def test_layers_mounted_by_a_name_that_only_the_other_namespace_knows_stay(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store")
    put(store, BASE, APP)
    for name in ("alias", "target"):
        (tmp_path / name).mkdir()
    script = 'mount --bind "$1" "$2"; mount -t overlay overlay -o "lowerdir=$3" "$4"'
    with (
        mounted(script, store.root, tmp_path / "alias", lower(store, tmp_path / "alias"), "/mnt"),
        pytest.raises(InputError, match="in use, mounted at /mnt"),
    ):
        store.remove(NAME)


def test_a_layer_mounted_by_itself_stays(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store")
    put(store, BASE)
    diff = tmp_path / "store/overlay" / store.find(NAME).layer_ids[0] / "diff"
    with mounted('mount --bind "$1" /mnt', diff), pytest.raises(InputError, match="in use, mounted at /mnt"):
        store.remove(NAME)
