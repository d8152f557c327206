from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from imagedist.errors import StorageError
from imagedist.locking import PrivateDirectory
from imagedist.oci.image import layer_ids
from imagedist.overlay.gc import collect
from imagedist.overlay.images import StoredImage
from imagedist.overlay.parts import Parts
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import APP, BASE, NAME, OTHER, SECOND, begin, build, put
from tests.support import unpacking
from tests.support.dead import DEAD
from tests.support.layers import BuiltImage


@pytest.fixture
def store(tmp_path: Path) -> OverlayStore:
    return OverlayStore(tmp_path / "store", durability="none")


def kinds(store: OverlayStore, *, dry_run: bool = False) -> list[str]:
    return sorted(one.kind for one in store.gc(dry_run=dry_run))


def files(root: Path) -> list[str]:
    """All there is but lock files, which stay for good."""
    paths = (path for path in root.rglob("*") if "lock" not in path.name and "locks" not in path.parts)
    return sorted(str(path.relative_to(root)) for path in paths)


def test_nothing_is_collected_of_a_store_in_order(store: OverlayStore) -> None:
    put(store, BASE, APP)
    store.gc()
    before = files(store.root)
    assert kinds(store) == []
    assert files(store.root) == before


def test_layers_that_no_image_needs_go_and_those_of_images_stay(store: OverlayStore) -> None:
    put(store, BASE, OTHER, names=[SECOND])
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP, OTHER), APP)
    assert len(os.listdir(store.root / "overlay")) == 4
    (one,) = store.gc()
    assert one.kind == "layer"
    assert one.size_bytes >= len(b"app")
    assert len(os.listdir(store.root / "overlay")) == 3
    assert set(store.tree(store.find(SECOND))) == {"d", "d/base", "d/other"}
    assert len(json.loads((store.root / "overlay-layers/layers.json").read_bytes())) == 2


def test_a_dry_run_says_the_same_and_touches_nothing(store: OverlayStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), BASE, APP)
    (store.root / "overlay/l/DANGLING").symlink_to("../nowhere/diff")
    before = files(store.root)
    told = store.gc(dry_run=True)
    assert files(store.root) == before
    assert set(store.gc()) == set(told)
    assert sorted(one.kind for one in told) == ["layer", "layer", "short link"]
    assert kinds(store) == []


@pytest.mark.parametrize("point", ["renamed", "linked", "unrecorded", "no directory"])
def test_what_a_kill_in_the_middle_of_a_commit_or_a_removal_left_goes(store: OverlayStore, point: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), BASE)
    (layer,) = [path for path in (store.root / "overlay").iterdir() if path.name != "l"]
    if point != "no directory":
        (store.root / "overlay-layers/layers.json").write_text("[]")
    if point == "renamed":
        (store.root / "overlay/l" / (layer / "link").read_text()).unlink()
    if point == "no directory":
        shutil.rmtree(layer)
    assert kinds(store)
    assert files(store.root / "overlay") == ["l"]
    assert files(store.root / "overlay-layers") == ["layers.json"]
    assert os.listdir(store.root / "imagedist/layers") == []
    assert kinds(store) == []


def test_directories_of_dead_owners_go_and_those_of_living_ones_stay(store: OverlayStore, tmp_path: Path) -> None:
    alive = PrivateDirectory(store.root / "imagedist/spill")
    for parent in (*(store.root / "imagedist" / name for name in ("building", "spill", "discarded")), tmp_path / "ram"):
        (parent / DEAD).mkdir(parents=True)
        (parent / DEAD / "left").write_bytes(b"x" * 10_000)
        (parent / f"{DEAD}.lock").touch()
    collected = store.gc(scratch=[tmp_path / "ram"])
    assert [one.kind for one in collected] == ["private directory"] * 4
    assert all(one.size_bytes >= 10_000 for one in collected)
    assert not list(tmp_path.rglob(f"{DEAD}*"))
    assert alive.path.exists()
    alive.close()


def test_an_images_documents_without_a_record_go(store: OverlayStore) -> None:
    built = put(store, BASE)
    (store.root / "overlay-images/images.json").write_text("[]")
    assert kinds(store) == ["image directory", "layer", "note"]
    assert not (store.root / "overlay-images" / built.image.id.hex).exists()


def test_files_that_a_killed_writer_left_aside_go(store: OverlayStore) -> None:
    built = put(store, BASE)
    images = store.root / "overlay-images"
    for path in (
        store.root / "overlay-layers/.layers.json.tmp",
        images / ".images.json.tmp",
        images / built.image.id.hex / ".manifest.tmp",
    ):
        path.write_text("half a reco")
    assert kinds(store) == ["file written aside"] * 3
    assert list(store.root.rglob("*.tmp")) == []


def test_mount_points_without_a_mount_go(store: OverlayStore) -> None:
    built = put(store, BASE)
    (store.root / "imagedist/mounts" / built.image.id.hex).mkdir()
    assert kinds(store) == ["mount point"]


def test_what_a_build_uses_or_builds_stays(store: OverlayStore) -> None:
    built = build(BASE, APP, OTHER)
    with pytest.raises(KeyboardInterrupt):
        begin(store, built, BASE)
    with contextlib.suppress(StorageError), store.building(built.image, [NAME]) as chain:
        private = chain.directory(chain.missing[0])
        private.rmdir()
        chain.merge(unpacking.extract(APP, private))
        chain.directory(chain.missing[1])
        assert kinds(store) == []
        assert chain.directory(chain.missing[1]).exists()
    assert kinds(store) == ["layer", "layer"]


def test_a_layer_in_use_by_another_store_stays(tmp_path: Path) -> None:
    user = tmp_path / "user"
    store = OverlayStore(tmp_path / "store", durability="none", used_by=[user])
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), BASE)
    (link,) = os.listdir(store.root / "overlay/l")
    (user / "overlay/upper").mkdir(parents=True)
    (user / "overlay/upper/lower").write_text(f"l/{link}")
    assert kinds(store) == []
    (user / "overlay/upper/lower").unlink()
    assert kinds(store) == ["layer"]


def test_layers_that_another_tool_put_into_the_store_are_its_own(store: OverlayStore) -> None:
    """podman with this store as its own has containers whose layers no image refers to."""
    built = put(store, BASE)
    lists = store.root / "overlay-layers/layers.json"
    container, foreign = "c" * 64, "f" * 64
    records = json.loads(lists.read_bytes())
    lists.write_text(json.dumps([*records, {"id": foreign}, {"id": container, "parent": records[0]["id"]}]))
    for layer_id in (foreign, container):
        (store.root / "overlay" / layer_id / "diff").mkdir(parents=True)
    (store.root / "overlay-containers").mkdir()
    (store.root / "overlay-containers/containers.json").write_text(json.dumps([{"id": "c0", "layer": container}]))
    store.remove(built.image.id.hex)
    assert kinds(store) == []
    assert len(json.loads(lists.read_bytes())) == 3


def test_layers_of_volatile_containers_and_those_below_stay(store: OverlayStore) -> None:
    """``podman run --rm`` and Buildah's containers have lists of their own."""
    built = put(store, BASE)
    (base,) = layer_ids(built.image.config.diff_ids)
    container = "c" * 64
    (store.root / "overlay" / container / "diff").mkdir(parents=True)
    (store.root / "overlay-containers").mkdir()
    lists = {
        store.root / "overlay-layers/volatile-layers.json": {"id": container, "parent": base},
        store.root / "overlay-containers/volatile-containers.json": {"id": "c0", "layer": container},
    }
    for path, record in lists.items():
        path.write_text(json.dumps([record]))
    store.remove(built.image.id.hex)
    assert kinds(store) == []
    assert {base, container} <= set(os.listdir(store.root / "overlay"))
    for path in lists:
        path.write_text("[]")
    assert kinds(store) == ["layer", "layer directory"]
    assert os.listdir(store.root / "overlay") == ["l"]


class EndsMeanwhile(Parts):
    """A build ends just after the images were read for the first time."""

    ended: ClassVar[list[BuiltImage]] = []

    def stored(self) -> list[StoredImage]:
        found = super().stored()
        if not self.ended:
            self.ended.append(put(OverlayStore(self.root, durability="none"), BASE))
        return found


def test_layers_of_an_image_that_was_made_during_a_collection_stay(store: OverlayStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), BASE)
    collected = collect(EndsMeanwhile.at(store.root, is_durable=False, used_by=()))
    assert len(EndsMeanwhile.ended) == 1
    assert [one.kind for one in collected] == []
    assert set(store.tree(store.find(NAME))) == {"d", "d/base"}


def test_notes_of_dead_builds_are_settled(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="image")
    put(store, BASE)
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), APP)
    assert kinds(store) == ["layer", "note"]
    assert os.listdir(store.root / "imagedist/unsynced") == []


@pytest.mark.root
def test_a_layer_mounted_in_another_mount_namespace_stays(store: OverlayStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), BASE)
    (layer,) = [path for path in (store.root / "overlay").iterdir() if path.name != "l"]
    mount = f"mount -t overlay overlay -o ro,lowerdir={layer}/diff:{layer}/empty {layer}/merged; echo ready; read _"
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-euc", mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "ready\n"
    assert kinds(store) == []
    holder.communicate("\n")
    assert kinds(store) == ["layer"]


KILLED = """
import os, sys
from pathlib import Path
from imagedist.overlay import layers, removal, gc
from imagedist.overlay.store import OverlayStore

calls = int(sys.argv[2])
def audit(event, arguments):
    global calls
    if event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(audit)
OverlayStore(Path(sys.argv[1]), durability="none").gc()
"""


def test_a_collection_killed_at_every_step_leaves_what_the_next_one_finishes(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="none")
    put(store, BASE, OTHER, names=[SECOND])
    steps = 0
    while True:
        with pytest.raises(KeyboardInterrupt):
            begin(store, build(BASE, APP, OTHER), APP)
        command = [sys.executable, "-c", KILLED, str(store.root), str(steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (0, -9), done.stderr
        assert set(store.tree(store.find(SECOND))) == {"d", "d/base", "d/other"}
        store.gc()
        assert len(os.listdir(store.root / "overlay")) == 3, f"killed before step {steps}"
        assert len(os.listdir(store.root / "imagedist/layers")) == 2
        if done.returncode == 0:
            break
        steps += 3
    assert steps > 6
