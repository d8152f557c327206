"""A real image, of this machine's own files: mounted by us, it equals what umoci and podman make of it."""

from __future__ import annotations

import gzip
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.demo import image
from imagedist.demo.layout import BuiltImage
from imagedist.difference import compare
from imagedist.overlay.tree import Directory, walk
from imagedist.overlay.view import View
from tests.golden.test_layers import podman_layers
from tests.support import layers, oracle
from tests.support.counts import count
from tests.support.pipeline import Pipeline, pipeline

SIZE_BYTES = count(8_000_000, 150_000_000)

pytestmark = [pytest.mark.prove, pytest.mark.timeout(count(120, 900))]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Podman takes no run root longer than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="real", dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def ours(scratch: Path) -> Iterator[Pipeline]:
    (scratch / "engine").mkdir()
    with pipeline(scratch / "engine") as made:
        yield made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """Podman names an image of a layout by its path, in which nothing may end in "_", as names in ``scratch`` may."""
    return image.build(tmp_path_factory.mktemp("real") / "layout", size_bytes=SIZE_BYTES, name="demo")


@pytest.fixture(scope="module")
def mounted(ours: Pipeline, built: BuiltImage) -> Iterator[Path]:
    blobs = {layer.descriptor.digest: built.blob(layer.descriptor.digest).read_bytes() for layer in built.image.layers}
    stored = ours.pull(layers.BuiltImage(built.image, blobs))
    yield ours.engine.store.mount(stored)
    ours.engine.store.umount(stored)


def described(built: BuiltImage) -> set[str]:
    """Paths whose times some layer says."""
    tars = (gzip.decompress(built.blob(layer.descriptor.digest).read_bytes()) for layer in built.image.layers)
    return {path for path, inode in oracle.apply_all(tars).items() if inode.mtime_ns is not None}


def check(mounted: Path, theirs: Directory | View, told: set[str]) -> None:
    found = compare(Directory(mounted), theirs, {"root-mode"})
    assert [one for one in found if one.aspect != "mtime" or one.path in told] == []
    assert sum(1 for _ in walk(Directory(mounted))) > 100


@pytest.mark.e2e("umoci")
def test_umoci_makes_the_same(mounted: Path, built: BuiltImage, scratch: Path) -> None:
    command = ["umoci", "unpack", "--image", f"{built.layout}:demo", str(scratch / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    check(mounted, Directory(scratch / "bundle/rootfs"), described(built))


@pytest.mark.e2e("podman")
def test_podman_makes_the_same(mounted: Path, built: BuiltImage, scratch: Path) -> None:
    podman = ["podman", "--root", f"{scratch}/p", "--runroot", f"{scratch}/r", "--storage-driver", "overlay"]
    command = [*podman, "pull", "--quiet", f"oci:{built.layout}:demo"]
    pulled = subprocess.run(command, check=True, capture_output=True, text=True)
    check(mounted, View(podman_layers(podman, pulled.stdout.strip())), described(built))
