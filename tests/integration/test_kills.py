"""A pull that is killed at any moment leaves a store that the next pull needs nothing but itself to go on with."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.demo import image, layout
from imagedist.demo.tree import expected_tree, node_tree
from imagedist.oci.reference import Reference
from imagedist.overlay.store import OverlayStore
from tests.support.counts import count

KILLS = count(3, 100)
SEED = 20_181_020
LAYOUT_BYTES = 8_000_000
PULL_SECONDS = 60


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> layout.BuiltImage:
    return image.build(tmp_path_factory.mktemp("kills") / "layout", size_bytes=LAYOUT_BYTES)


@pytest.fixture(scope="module")
def reference(built: layout.BuiltImage) -> Iterator[Reference]:
    """The image in a registry of its own process."""
    registry = subprocess.Popen(
        [sys.executable, "-m", "imagedist.demo.registry", "--layout", str(built.layout)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert registry.stdout
    try:
        yield Reference.parse(f"{registry.stdout.readline().strip()}/{image.NAME}")
    finally:
        registry.terminate()
        registry.wait()
        registry.stdout.close()


def start_pull(reference: Reference, store: Path, ramdisk: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imagedist", "pull", "--no-agent", "--plain-http", str(reference)]
    return subprocess.Popen(
        [*command, "--root", str(store), "--ramdisk", str(ramdisk)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def leftovers(store: Path, ramdisk: Path) -> list[Path]:
    """Private directories, staged tars and files written aside. Lock files of whole directories stay for good."""
    private = [store / "imagedist/building", store / "imagedist/spill", ramdisk]
    left = [path for directory in private for path in directory.iterdir() if path.name != ".lock"]
    return left + list(store.rglob(".*.tmp")) + list((store / "imagedist/unsynced").iterdir())


def assert_in_order_after_gc(store: Path, ramdisk: Path, parents: set[int], about: str) -> None:
    """On a copy, so that the next pull still finds what the kill left: podman reads it, and gc leaves nothing over."""
    deadline = time.monotonic() + 60
    while processes_of(ramdisk, parents):
        assert time.monotonic() < deadline, f"workers outlive their parent; {about}"
        time.sleep(0.01)
    if not store.exists():
        return
    copy = store.with_name("copy")
    shutil.copytree(store, copy, symlinks=True, copy_function=_copy)
    assert_podman_reads(copy, about)
    collected = OverlayStore(copy)
    collected.gc()
    layers = {layer_id for image in collected.images() for layer_id in image.layer_ids}
    assert {path.name for path in (copy / "overlay").iterdir()} == {"l", *layers}, about
    assert {os.readlink(path) for path in (copy / "overlay/l").iterdir()} == {f"../{one}/diff" for one in layers}, about
    splits = {path.name.partition(".")[0] for path in (copy / "overlay-layers").glob("*.tar-split.gz")}
    assert splits == layers, about
    private = [copy / "imagedist" / name for name in ("building", "spill", "discarded", "unsynced")]
    assert [path for one in private if one.exists() for path in one.iterdir() if path.name != ".lock"] == [], about
    assert_podman_reads(copy, about)
    shutil.rmtree(copy)


def _copy(source: str, target: str) -> None:
    """Devices, FIFOs and whiteouts have no content to copy."""
    if stat.S_ISREG(os.lstat(source).st_mode):
        shutil.copy2(source, target)


def assert_podman_reads(store: Path, about: str) -> None:
    """Where there is a podman; its own tests say when there is none."""
    if os.geteuid() != 0 or shutil.which("podman") is None:
        return
    with tempfile.TemporaryDirectory(prefix="kills", dir="/tmp") as own:
        options = ["--root", f"{own}/p", "--runroot", f"{own}/r", "--storage-driver", "overlay"]
        command = ["podman", *options, "--storage-opt", f"additionalimagestore={store}", "images", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{about}: {done.stderr}"
        assert len(set(done.stdout.split())) == len(OverlayStore(store).images()), about


def processes_of(ramdisk: Path, parents: set[int]) -> list[str]:
    """Command lines that name the ramdisk, or unpack workers of one of these parents."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile
        is_worker = (
            "imagedist.unpack.worker" in words and int(words[words.index("imagedist.unpack.worker") + 1]) in parents
        )
        if is_worker or str(ramdisk) in words:
            found.append(" ".join(words))
    return found


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
def test_pull_killed_at_random_moments_leaves_nothing_that_the_next_pull_trips_over(
    built: layout.BuiltImage, reference: Reference, tmp_path: Path
) -> None:
    """Kills fall between the start and 1.2 times the length of a whole pull, so some pulls also get through."""
    store, ramdisk = tmp_path / "store", tmp_path / "ramdisk"
    started = time.monotonic()
    whole = start_pull(reference, tmp_path / "first", ramdisk)
    _, errors = whole.communicate(timeout=PULL_SECONDS)
    assert whole.returncode == 0, errors
    pull_seconds = time.monotonic() - started
    chance = random.Random(SEED)
    parents, moments = set(), []
    for _ in range(KILLS):
        moments.append(round(chance.uniform(0, 1.2 * pull_seconds), 3))
        pull = start_pull(reference, store, ramdisk)
        parents.add(pull.pid)
        try:
            _, errors = pull.communicate(timeout=moments[-1])
        except subprocess.TimeoutExpired:
            pull.kill()
            _, errors = pull.communicate()
            assert pull.returncode in (-9, 0), f"seed {SEED}, kills after {moments} s: {errors}"
        else:
            assert pull.returncode == 0, f"seed {SEED}, kills after {moments} s: {errors}"
        assert_in_order_after_gc(store, ramdisk, parents, f"seed {SEED}, kills after {moments} s")
    last = start_pull(reference, store, ramdisk)
    _, errors = last.communicate(timeout=PULL_SECONDS)
    about = f"seed {SEED}, kills after {moments} s"
    assert last.returncode == 0, f"{about}: {errors}"
    assert node_tree(store, reference) == expected_tree(built), about
    assert leftovers(store, ramdisk) == [], about
    assert processes_of(ramdisk, parents) == [], about
