from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagedist.errors import InputError, NotFoundError, StorageError
from imagedist.oci.image import layer_ids
from imagedist.overlay.locks import ChainLocks
from imagedist.overlay.store import OverlayStore
from tests.support import layers, unpacking
from tests.support.dead import DEAD
from tests.support.layers import BuiltImage, directory, file

BASE = layers.tar([directory("d"), file("d/base", b"base")])
APP = layers.tar([file("d/app", b"app")])
OTHER = layers.tar([file("d/other", b"other")])
NAME = "registry.example/app:1"


def build(*tars: bytes) -> BuiltImage:
    return layers.image(list(tars))


def put(store: OverlayStore, *tars: bytes, names: tuple[str, ...] = (NAME,)) -> BuiltImage:
    built = build(*tars)
    unpacking.put(store, built, tars, names)
    return built


def begin(store: OverlayStore, built: BuiltImage, number: int, tar: bytes) -> None:
    """Merges one of the missing layers, then is interrupted."""
    with store.building(built.image, [NAME]) as chain:
        directory = chain.directory(chain.missing[number])
        directory.rmdir()
        chain.merge(unpacking.extract(tar, directory))
        raise KeyboardInterrupt


@pytest.fixture
def store(tmp_path: Path) -> OverlayStore:
    return OverlayStore(tmp_path / "store", durability="none")


def test_stored_image_is_found_by_name_reference_and_id(store: OverlayStore) -> None:
    built = put(store, BASE, APP)
    image = store.find(NAME)
    assert image == store.find(built.image.id.hex) == store.find(built.image.id.hex[:12]) == store.images()[0]
    assert image.layer_ids == layer_ids(built.image.config.diff_ids)
    assert (image.names, image.digest) == ((NAME,), str(built.image.manifest_digest))
    assert image.size_bytes == len(BASE) + len(APP)
    assert store.manifest_bytes(image) == built.image.manifest_bytes
    assert store.config_bytes(image) == built.image.config_bytes
    assert set(store.tree(image)) == {"d", "d/base", "d/app"}


def test_short_name_means_docker_hub(store: OverlayStore) -> None:
    put(store, BASE, names=("docker.io/library/app:latest",))
    assert store.find("app").names == ("docker.io/library/app:latest",)


def test_unknown_image_names_what_there_is(store: OverlayStore) -> None:
    put(store, BASE)
    with pytest.raises(NotFoundError, match=r"there is: registry\.example/app:1"):
        store.find("nothing")


def test_files_are_those_that_containers_storage_writes(store: OverlayStore) -> None:
    """The expected keys and names are those of a store that podman 4.3 wrote."""
    built = put(store, BASE, APP)
    base, top = layer_ids(built.image.config.diff_ids)
    overlay = store.root / "overlay"
    assert sorted(os.listdir(overlay / base)) == ["diff", "empty", "link", "merged", "work"]
    assert sorted(os.listdir(overlay / top)) == ["diff", "link", "lower", "merged", "work"]
    link = (overlay / base / "link").read_text()
    assert len(link) == 26
    assert (overlay / top / "lower").read_text() == f"l/{link}"
    assert os.readlink(overlay / "l" / link) == f"../{base}/diff"
    records = json.loads((store.root / "overlay-layers/layers.json").read_bytes())
    assert [(record["id"], record.get("parent"), record["compression"]) for record in records] == [
        (base, None, 2),
        (top, base, 2),
    ]
    assert records[1]["diff-digest"] == str(built.image.layers[1].diff_id)
    assert records[1]["compressed-diff-digest"] == str(built.image.layers[1].descriptor.digest)
    (record,) = json.loads((store.root / "overlay-images/images.json").read_bytes())
    assert (record["id"], record["layer"], record["names"]) == (built.image.id.hex, top, [NAME])
    for name, digest in record["big-data-digests"].items():
        assert len(digest) == 71, name
    assert (store.root / "overlay-images" / built.image.id.hex / "manifest").is_file()
    assert len((store.root / "overlay-images/images.lock").read_bytes()) == 64
    assert len((store.root / "overlay-layers/layers.lock").read_bytes()) == 64


def test_present_layers_are_not_built_again_and_names_are_added(store: OverlayStore) -> None:
    built = put(store, BASE, APP)
    with store.building(built.image, ["registry.example/app:2"]) as chain:
        assert chain.missing == ()
    assert set(store.find(NAME).names) == {NAME, "registry.example/app:2"}


def test_name_moves_to_the_image_that_was_stored_last(store: OverlayStore) -> None:
    put(store, BASE, APP)
    built = put(store, BASE, OTHER)
    assert store.find(NAME).id == built.image.id.hex
    assert sorted(image.names for image in store.images()) == [(), (NAME,)]


def test_layers_out_of_order_are_refused_and_nothing_is_stored(store: OverlayStore) -> None:
    built = build(BASE, APP)
    with pytest.raises(StorageError, match="base first"):
        begin(store, built, 1, APP)
    assert store.images() == []
    assert list((store.root / "imagedist/building").glob("[!.]*")) == []


def test_leaving_with_layers_missing_stores_no_image(store: OverlayStore) -> None:
    with pytest.raises(StorageError, match="not every missing layer"), store.building(build(BASE).image, [NAME]):
        pass
    assert store.images() == []


def test_failed_build_keeps_merged_layers_for_the_next(store: OverlayStore) -> None:
    built = build(BASE, APP)
    with pytest.raises(KeyboardInterrupt):
        begin(store, built, 0, BASE)
    with pytest.raises(StorageError), store.building(built.image, [NAME]) as chain:
        assert chain.missing == built.image.layers[1:]
    assert store.images() == []


def test_layer_directory_without_a_record_is_built_again(store: OverlayStore) -> None:
    """A kill between the rename of the directory and the write of layers.json."""
    built = put(store, BASE, APP)
    (store.root / "overlay-layers/layers.json").write_text("[]")
    (store.root / "overlay-images/images.json").write_text("[]")
    put(store, BASE, APP)
    assert set(store.tree(store.find(built.image.id.hex))) == {"d", "d/base", "d/app"}


def test_record_without_its_layer_directory_is_built_again(store: OverlayStore) -> None:
    built = put(store, BASE, APP)
    base, top = layer_ids(built.image.config.diff_ids)
    lower = (store.root / "overlay" / top / "lower").read_text()
    shutil.rmtree(store.root / "overlay" / base)
    put(store, BASE, APP)
    assert len(json.loads((store.root / "overlay-layers/layers.json").read_bytes())) == 2
    assert (store.root / "overlay" / lower / "d/base").read_bytes() == b"base"


def test_private_directories_of_dead_builders_are_removed(store: OverlayStore) -> None:
    left = store.root / "imagedist/building" / DEAD / "0"
    left.mkdir(parents=True)
    (store.root / f"imagedist/building/{DEAD}.lock").touch()
    put(store, BASE)
    assert not left.exists()


def test_layers_that_were_not_synced_before_a_reboot_are_built_again(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="image")
    built = build(BASE, APP)
    with pytest.raises(KeyboardInterrupt):
        begin(store, built, 0, BASE)
    (note,) = (store.root / "imagedist/unsynced").iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), "boot": "another boot"}))
    with pytest.raises(StorageError), store.building(built.image, [NAME]) as chain:
        assert chain.missing == built.image.layers
    put(store, BASE, APP)
    assert not note.exists()


def test_a_note_of_lost_layers_stays_while_another_process_is_at_them(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="image")
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), 0, BASE)
    (note,) = (store.root / "imagedist/unsynced").iterdir()
    lost = json.loads(note.read_text())
    note.write_text(json.dumps({**lost, "boot": "another boot"}))
    with ChainLocks(store.root / "imagedist") as locks:
        assert locks.try_remove(lost["layers"][0])  # and may be killed before the layer is gone
        put(store, OTHER)
        assert note.exists()
    put(store, OTHER)
    assert not note.exists()
    assert not (store.root / "overlay" / lost["layers"][0]).exists()


def test_second_builder_of_a_layer_waits_and_finds_it_built(store: OverlayStore) -> None:
    built = build(BASE)
    second_missing: list[int] = []

    def second() -> None:
        with store.building(built.image, ["registry.example/app:2"]) as chain:
            second_missing.append(len(chain.missing))

    with store.building(built.image, [NAME]) as chain:
        thread = threading.Thread(target=second)
        thread.start()
        directory = chain.directory(chain.missing[0])
        directory.rmdir()
        chain.merge(unpacking.extract(BASE, directory))
    thread.join()
    assert second_missing == [0]
    assert len(store.find(NAME).names) == 2


def test_waiting_for_another_builder_can_be_stopped(store: OverlayStore) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StorageError, match="not every"), store.building(build(BASE).image, [NAME]):
        with pytest.raises(StorageError, match="stopped"), store.building(build(BASE, APP).image, [NAME], stop=stop):
            pass


def test_builders_of_different_images_upon_one_base_do_not_wait_for_each_other(store: OverlayStore) -> None:
    put(store, BASE)
    with pytest.raises(StorageError, match="not every"), store.building(build(BASE, APP).image, [NAME]):
        put(store, BASE, OTHER, names=("registry.example/other:1",))
    assert store.find("registry.example/other:1")


def test_removing_a_name_keeps_the_image_until_the_last_one(store: OverlayStore) -> None:
    put(store, BASE, APP, names=(NAME, "registry.example/app:2"))
    assert store.remove(NAME) is None
    assert store.find("registry.example/app:2").names == ("registry.example/app:2",)
    assert store.remove("registry.example/app:2") is not None
    assert store.images() == []
    assert os.listdir(store.root / "overlay") == ["l"]
    assert os.listdir(store.root / "overlay/l") == []
    assert sorted(os.listdir(store.root / "overlay-layers")) == ["layers.json", "layers.lock"]


def test_removing_an_image_keeps_the_layers_of_others(store: OverlayStore) -> None:
    put(store, BASE, APP)
    put(store, BASE, OTHER, names=("registry.example/other:1",))
    store.remove(NAME)
    assert set(store.tree(store.find("registry.example/other:1"))) == {"d", "d/base", "d/other"}
    assert len(json.loads((store.root / "overlay-layers/layers.json").read_bytes())) == 2


def test_image_that_another_stores_container_uses_is_not_removed(tmp_path: Path) -> None:
    user = tmp_path / "user"
    store = OverlayStore(tmp_path / "store", durability="none", used_by=[user])
    built = put(store, BASE)
    (user / "overlay-containers").mkdir(parents=True)
    containers = user / "overlay-containers/containers.json"
    containers.write_text(json.dumps([{"id": "c0ffee", "image": built.image.id.hex}]))
    with pytest.raises(InputError, match="container c0ffee"):
        store.remove(NAME)
    containers.unlink()
    (user / "overlay/upper").mkdir(parents=True)
    link = (store.root / "overlay" / store.find(NAME).layer_ids[0] / "link").read_text()
    (user / "overlay/upper/lower").write_text(f"l/{link}")
    with pytest.raises(InputError, match="layer upper"):
        store.remove(NAME)
    assert store.find(NAME)


def test_container_upon_another_image_does_not_keep_an_image_that_shares_its_base(tmp_path: Path) -> None:
    user = tmp_path / "user"
    store = OverlayStore(tmp_path / "store", durability="none", used_by=[user])
    put(store, BASE, APP)
    put(store, BASE, OTHER, names=("registry.example/other:1",))
    lower = ":".join(f"l/{path.name}" for path in (store.root / "overlay/l").iterdir() if (path / "d/app").exists())
    base = store.find(NAME).layer_ids[0]
    (user / "overlay/upper").mkdir(parents=True)
    (user / "overlay/upper/lower").write_text(f"{lower}:l/{(store.root / 'overlay' / base / 'link').read_text()}")
    assert store.remove("registry.example/other:1") is not None
    with pytest.raises(InputError, match="layer upper"):
        store.remove(NAME)


def test_image_is_not_removed_while_a_build_relies_on_its_layers(store: OverlayStore) -> None:
    put(store, BASE)
    with pytest.raises(StorageError, match="not every"), store.building(build(BASE, APP).image, [NAME]):
        store.remove(NAME)
    assert len(os.listdir(store.root / "overlay")) == 2


def test_record_lock_of_containers_storage_excludes_us(store: OverlayStore) -> None:
    script = (
        "import fcntl, struct, sys\n"
        "file = open(sys.argv[1], 'r+')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    lock = store.root / "overlay-layers/layers.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with lock.open("r+") as file, pytest.raises(BlockingIOError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 0, 0))
    reading = threading.Thread(target=lambda: put(store, BASE))
    reading.start()
    holder.stdin.close()
    reading.join()
    holder.wait()
    holder.stdout.close()
    assert store.find(NAME)


def test_broken_record_file_is_named(store: OverlayStore) -> None:
    (store.root / "overlay-images/images.json").write_text("{")
    with pytest.raises(StorageError, match=r"images\.json is not JSON"):
        store.images()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may mount")
def test_mounting_without_root_says_so(store: OverlayStore) -> None:
    put(store, BASE)
    with pytest.raises(StorageError, match="needs root"):
        store.mount(store.find(NAME))


@pytest.mark.root
@pytest.mark.parametrize("count", [1, 2, 127])
def test_mount_shows_the_tree_and_protects_the_image(tmp_path: Path, count: int) -> None:
    store = OverlayStore(tmp_path / "store", durability="none")
    tars = [layers.tar([directory("d"), file(f"d/{number}", b"x")]) for number in range(count)]
    put(store, *tars)
    image = store.find(NAME)
    mounted = store.mount(image)
    try:
        assert store.mount(image) == mounted
        assert sorted(os.listdir(mounted / "d"), key=int) == [str(number) for number in range(count)]
        with pytest.raises(OSError, match="Read-only"):
            (mounted / "new").touch()
        with pytest.raises(InputError, match="mounted"):
            store.remove(NAME)
    finally:
        store.umount(image)
    store.umount(image)
    assert store.remove(NAME) == image


def test_image_that_another_store_gave_a_name_of_its_own_is_not_removed(tmp_path: Path) -> None:
    """As ``podman tag`` does: a record in podman's own store, manifest and layers in ours."""
    user = tmp_path / "user"
    store = OverlayStore(tmp_path / "store", durability="none", used_by=[user])
    built = put(store, BASE, APP)
    put(store, BASE, APP, OTHER, names=("registry.example/other:1",))
    (user / "overlay-images").mkdir(parents=True)
    record = {"id": built.image.id.hex, "layer": store.find(NAME).layer_ids[-1], "names": ["localhost/copy:1"]}
    (user / "overlay-images/images.json").write_text(json.dumps([record]))
    with pytest.raises(InputError, match="image localhost/copy:1"):
        store.remove(NAME)
    (user / "overlay-images/images.json").write_text("[]")
    assert store.remove(NAME)


def notes(store: OverlayStore) -> list[Path]:
    return list((store.root / "imagedist/unsynced").iterdir())


def test_layers_that_a_dead_build_left_unsynced_are_synced_before_an_image_relies_on_them(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="image")
    with pytest.raises(KeyboardInterrupt):
        begin(store, build(BASE, APP), 0, BASE)
    assert len(notes(store)) == 1
    put(store, OTHER, names=("registry.example/other:1",))
    put(store, BASE)
    assert notes(store) == []


def test_note_of_a_build_under_way_stays(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="image")
    with store.building(build(BASE, APP).image, [NAME]) as chain:
        for layer, tar in zip(chain.missing, (BASE, APP), strict=True):
            directory = chain.directory(layer)
            directory.rmdir()
            chain.merge(unpacking.extract(tar, directory))
            put(store, BASE, OTHER, names=("registry.example/other:1",))
            assert len(notes(store)) == 1
    assert notes(store) == []


def test_note_that_a_kill_cut_off_is_of_a_build_that_merged_nothing(tmp_path: Path) -> None:
    store = OverlayStore(tmp_path / "store", durability="image")
    (store.root / "imagedist/unsynced/0123.json").write_text('{"version": 1, "bo')
    put(store, BASE)
    assert notes(store) == []


def test_layer_that_cannot_be_recorded_gives_its_space_back(store: OverlayStore) -> None:
    obstacle = store.root / "overlay-layers/.layers.json.tmp"
    obstacle.mkdir()  # as a full disk would: layers.json cannot be written aside
    with pytest.raises(StorageError, match=r"layers\.json"):
        put(store, BASE)
    assert os.listdir(store.root / "overlay") == ["l"]
    obstacle.rmdir()
    put(store, BASE)
    assert store.find(NAME)


def test_image_that_cannot_be_recorded_leaves_the_old_store_and_its_layers(store: OverlayStore) -> None:
    put(store, BASE)
    before = (store.root / "overlay-images/images.json").read_bytes()
    obstacle = store.root / "overlay-images/.images.json.tmp"
    obstacle.mkdir()
    with pytest.raises(StorageError, match=r"images\.json"):
        put(store, BASE, APP, names=("registry.example/other:1",))
    assert (store.root / "overlay-images/images.json").read_bytes() == before
    obstacle.rmdir()
    with store.building(build(BASE, APP).image, ["registry.example/other:1"]) as chain:
        assert chain.missing == ()


def test_file_written_aside_by_a_killed_writer_is_overwritten(store: OverlayStore) -> None:
    (store.root / "overlay-images/.images.json.tmp").write_text("half a reco")
    put(store, BASE)
    assert store.find(NAME)
    assert list(store.root.rglob("*.tmp")) == []


DIGEST = "registry.example/app@{}"


def test_an_image_is_found_by_the_digest_of_any_of_its_repositories(store: OverlayStore) -> None:
    built = put(store, BASE, names=(NAME,))
    by_digest = DIGEST.format(built.image.manifest_digest)
    assert store.find(by_digest) == store.find(f"{NAME}@{built.image.manifest_digest}") == store.find(NAME)
    with pytest.raises(NotFoundError):
        store.find(f"registry.example/elsewhere@{built.image.manifest_digest}")
    assert store.remove(by_digest) is not None


def test_a_tag_with_a_digest_is_stored_under_the_digest_as_podman_does(store: OverlayStore) -> None:
    digest = build(BASE).image.manifest_digest
    put(store, BASE, names=(f"{NAME}@{digest}",))
    assert store.find(NAME.partition(":")[0] + f"@{digest}").names == (DIGEST.format(digest),)
    assert store.remove(f"{NAME}@{digest}") is not None


def test_one_digest_of_several_names_is_not_removed_by_chance(store: OverlayStore) -> None:
    built = put(store, BASE, names=(NAME, "registry.example/other:1"))
    with pytest.raises(InputError, match="has 2 names"):
        store.remove(DIGEST.format(built.image.manifest_digest))
    assert store.remove(built.image.id.hex) is not None


def test_the_name_is_the_digests_after_an_explicit_pull_of_it(store: OverlayStore) -> None:
    built = put(store, BASE, names=(NAME,))
    by_digest = DIGEST.format(built.image.manifest_digest)
    put(store, BASE, names=(by_digest,))
    assert set(store.find(NAME).names) == {NAME, by_digest}
    assert store.remove(NAME) is None
    assert store.remove(by_digest) is not None


def test_readers_are_told_before_a_change_and_after_it(store: OverlayStore) -> None:
    """A reader of containers/storage loads a list again when the 64 bytes in its lock file differ."""
    lock = store.root / "overlay-images/images.lock"
    put(store, BASE)
    before = lock.read_bytes()
    put(store, BASE, APP, names=("registry.example/other:1",))
    assert len(lock.read_bytes()) == len(before) == 64
    assert lock.read_bytes() != before
    unchanged = lock.read_bytes()
    put(store, BASE, APP, names=("registry.example/other:1",))
    assert lock.read_bytes() == unchanged


DURABLE = """
import os, sys
from pathlib import Path
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import APP, BASE, build, put
put(OverlayStore(Path(sys.argv[1]), durability=sys.argv[2]), BASE, APP)
"""


@pytest.mark.e2e("strace")
def test_an_image_is_recorded_only_after_a_sync_of_its_layers_and_every_list_is_synced_before_its_name(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "trace"
    calls = "trace=syncfs,fsync,rename,renameat,renameat2"
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", DURABLE]
    subprocess.run([*command, str(tmp_path / "store"), "image"], check=True)
    lines = [line for line in trace.read_text().splitlines() if str(tmp_path / "store") in line]
    syncs = [number for number, line in enumerate(lines) if "syncfs(" in line]
    layers_renamed = [number for number, line in enumerate(lines) if '/layers.json")' in line]
    (image_renamed,) = [number for number, line in enumerate(lines) if '/images.json")' in line]
    assert len(layers_renamed) == 2
    assert max(layers_renamed) < syncs[-1] < image_renamed  # a slow build is written back before, too
    for number in (*layers_renamed, image_renamed):
        name = lines[number].split('"')[1]
        assert any("fsync(" in line and name in line for line in lines[number - 2 : number])
        assert "fsync(" in lines[number + 1]
        assert f"<{os.path.dirname(name)}>" in lines[number + 1]


@pytest.mark.e2e("strace")
def test_without_durability_nothing_is_synced(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=syncfs,fsync", "-o", str(trace), sys.executable, "-c", DURABLE]
    subprocess.run([*command, str(tmp_path / "store"), "none"], check=True)
    synced = [line for line in trace.read_text().splitlines() if str(tmp_path / "store") in line]
    assert all("/imagedist" in line for line in synced)  # the format file alone
