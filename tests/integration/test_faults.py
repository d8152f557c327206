"""Each fault ends in one clear error and a store as it was, and the next pull completes."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError, StorageError
from imagedist.oci.digest import Digest
from imagedist.overlay.durability import sync_file_system, writing_back
from imagedist.overlay.tree import walk
from imagedist.overlay.view import View
from imagedist.store.blobs import BlobStore
from imagedist.store.partial import Partial
from imagedist.unpack.workers import Workers
from tests.support import layers
from tests.support.children import children, wait_for_children
from tests.support.pipeline import Pipeline, pipeline

MIB = 1 << 20
LOOP_SET_STATUS64, LOOP_GET_STATUS64 = 0x4C04, 0x4C05
NOISE = random.Random(7).randbytes(5 * MIB)
SMALL = layers.image([[layers.directory("d"), layers.file("d/old", b"kept")]])
LARGE = layers.image(
    [[layers.directory("d"), layers.file("d/old", b"kept")], [layers.file("d/big", NOISE), layers.file("z")]]
)

pytestmark = pytest.mark.root


@contextmanager
def mounted(directory: Path, *command: str) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", *command, str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def tmpfs(directory: Path, size_bytes: int) -> contextmanager[Path]:  # type: ignore[type-arg]  # as typeshed has it
    return mounted(directory, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs")


def resize(directory: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(directory)], check=True)


def paths(ours: Pipeline, built: layers.BuiltImage) -> list[str]:
    store = ours.engine.store
    return [path for path, _ in walk(View(store.diffs(store.find(built.image.id.hex))))]


def check_untouched(ours: Pipeline) -> None:
    """The image from before is all there is, and nothing half-made is left."""
    assert [image.id for image in ours.engine.store.images()] == [SMALL.image.id.hex]
    assert paths(ours, SMALL) == ["", "d", "d/old"]
    building = ours.engine.store.root / "imagedist" / "building"
    assert [path for path in building.rglob("*") if path.name != ".lock"] == []


def check_completes(ours: Pipeline) -> None:
    ours.pull(LARGE)
    assert paths(ours, LARGE) == ["", "d", "d/big", "d/old", "z"]


def test_wrong_diff_id_in_the_config_is_refused_and_nothing_stored(tmp_path: Path) -> None:
    wrong = replace(LARGE.image.layers[1], diff_id=Digest.of(b"something else"))
    lying = replace(LARGE, image=replace(LARGE.image, layers=(LARGE.image.layers[0], wrong)))
    with pipeline(tmp_path) as ours:
        ours.pull(SMALL)
        with pytest.raises(IntegrityError, match="expected diff ID"):
            ours.pull(lying)
        check_untouched(ours)
        check_completes(ours)


@pytest.mark.parametrize("fault", ["wrong", "cut"])
def test_damaged_layer_is_refused_and_nothing_stored(tmp_path: Path, fault: str) -> None:
    with pipeline(tmp_path) as ours:
        ours.pull(SMALL)
        with pytest.raises(IntegrityError):
            ours.pull(LARGE, **{fault: LARGE.image.layers[1].descriptor.digest})
        check_untouched(ours)
        check_completes(ours)


def test_full_store_ends_in_an_error_that_says_so_and_works_again_with_more_room(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 4 * MIB) as disk, pipeline(disk) as ours:
        ours.pull(SMALL)
        with pytest.raises(StorageError, match=r"No space left.*free some space"):
            ours.pull(LARGE)
        check_untouched(ours)
        resize(disk, 64 * MIB)
        check_completes(ours)


def test_ramdisk_that_others_filled_means_spilling_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    with tmpfs(tmp_path / "node/ramdisk", 8 * MIB) as ramdisk, pipeline(tmp_path / "node", 8 * MIB) as ours:
        (ramdisk / "of-somebody-else").write_bytes(
            bytes(os.statvfs(ramdisk).f_bavail * os.statvfs(ramdisk).f_frsize - MIB)
        )
        check_completes(ours)


def test_full_cache_ends_in_an_error_that_says_so(tmp_path: Path) -> None:
    layer = LARGE.image.layers[1].descriptor
    with tmpfs(tmp_path / "cache", MIB) as cache:
        store = BlobStore(cache)
        partial = Partial.claim(store.partial_path(layer.digest), layer.digest)
        assert partial is not None
        with pytest.raises(StorageError, match="No space left"):
            partial.append(LARGE.blobs[layer.digest])
        partial.drop()
        assert not store.has(layer.digest)
        assert os.statvfs(cache).f_bfree * os.statvfs(cache).f_frsize > MIB // 2


def test_disk_that_fails_ends_in_an_error_that_says_so(small_disk: Path) -> None:
    """A disk that ends early gives EIO for what is written behind its end; ext4 says ENOMEM of its own blocks there."""
    with pipeline(small_disk, durability="image") as ours:
        ours.pull(SMALL)
        os.sync()
        limit_disk(small_disk, 4 * MIB)
        with pytest.raises(StorageError, match=r"Input/output error|Cannot allocate memory"):
            ours.pull(LARGE)
        limit_disk(small_disk, 0)
        check_untouched(ours)
        with suppress(StorageError):  # what the kernel wrote in vain since, it tells whoever asks next (errseq_t)
            sync_file_system(small_disk)
        check_completes(ours)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 128 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-N", "2000", "-O", "^has_journal", str(image)], check=True)
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        yield disk


def test_what_a_build_has_written_reaches_the_disk_before_the_build_ends(small_disk: Path) -> None:
    counter = Path("/sys/fs/ext4") / os.path.basename(device(small_disk)) / "session_write_kbytes"
    before_kib = int(counter.read_text())
    with writing_back(small_disk):
        (small_disk / "file").write_bytes(os.urandom(8 * MIB))
        while int(counter.read_text()) < before_kib + 8 * 1024:
            os.sched_yield()


def test_a_write_that_fails_while_a_build_goes_on_fails_the_build(small_disk: Path) -> None:
    """The kernel tells such an error once: the sync at the end would be told that all is well."""
    building = writing_back(small_disk)
    building.__enter__()
    limit_disk(small_disk, 4 * MIB)
    (small_disk / "file").write_bytes(bytes(16 * MIB))
    while any(thread.name == "write-back" for thread in threading.enumerate()):
        os.sched_yield()
    with pytest.raises(StorageError, match="Input/output error"):
        building.__exit__(None, None, None)
    limit_disk(small_disk, 0)


def device(mount_point: Path) -> str:
    found = subprocess.run(["findmnt", "-no", "SOURCE", str(mount_point)], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def limit_disk(mount_point: Path, size_bytes: int) -> None:
    """Makes the loop device below a mount smaller, or with 0 as large as its file again (linux/loop.h)."""
    with open(device(mount_point), "rb") as loop:
        status = bytearray(fcntl.ioctl(loop, LOOP_GET_STATUS64, bytes(232)))
        status[32:40] = size_bytes.to_bytes(8, "little")  # lo_sizelimit
        fcntl.ioctl(loop, LOOP_SET_STATUS64, bytes(status))


def test_worker_killed_for_its_memory_fails_its_layer_and_another_takes_its_place(tmp_path: Path) -> None:
    """A real OOM kill: what the worker writes to a tmpfs is charged to its memory cgroup."""
    tar = tmp_path / "tar"
    tar.write_bytes(layers.tar([layers.file("f", bytes(40 * MIB))]))
    with tmpfs(tmp_path / "disk", 128 * MIB) as disk, memory_cgroup(16 * MIB) as cgroup:
        for name in ("first", "second"):
            (disk / name).mkdir()
        others = children(os.getpid())
        workers = Workers(1)
        try:
            (worker,) = wait_for_children(1, besides=others)
            cgroup.write_text(str(worker))
            with pytest.raises(StorageError, match="signal 9"):
                workers.extract_file(tar, disk / "first").result()
            extracted = workers.extract_file(tar, disk / "second").result()
            assert (extracted.directory / "diff/f").stat().st_size == 40 * MIB
        finally:
            workers.close()


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """The file to write process ids to, of a memory cgroup of its own, version 1 or 2."""
    for above, limit, members in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "tasks"),
        (Path("/sys/fs/cgroup"), "memory.max", "cgroup.procs"),
    ):
        group = above / f"imagedist-test-{os.getpid()}-{threading.get_native_id()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(limit_bytes))
                yield group / members
                return
        finally:
            group.rmdir()
    pytest.skip("no memory cgroup can be made here")
