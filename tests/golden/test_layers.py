"""Each rule by our whole pipeline, against the reference applier and against what others make of the same image."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.difference import Difference, compare
from imagedist.overlay.tree import Directory, Root, walk
from imagedist.overlay.view import View
from tests.golden.cases import CASES, Case
from tests.support import layers, layouts, oracle, unpacking
from tests.support.counts import count
from tests.support.pipeline import Pipeline, pipeline

PODMANS = [case for number, case in enumerate(CASES) if case.podman or number % count(4, 1) == 0]
each = pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])

of_podman = pytest.mark.parametrize("case", PODMANS, ids=[case.name.replace(" ", "-") for case in PODMANS])


@pytest.fixture(scope="module")
def ours() -> Iterator[Pipeline]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, pipeline(Path(scratch)) as made:
        yield made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case by its number, in one OCI layout."""
    directory = tmp_path_factory.mktemp("golden") / "layout"
    for number, case in enumerate(CASES):
        layouts.write(layers.image(case.tars(), compression="none"), directory, str(number))
    return directory


@pytest.mark.root
@each
def test_result_is_what_the_specification_says(ours: Pipeline, case: Case) -> None:
    expected = oracle.summary(oracle.apply_all(case.tars()))
    assert unpacking.summary(ours.unpack(case.tars()), expected) == expected


@pytest.mark.e2e("umoci")
@each
def test_umoci_makes_the_same(ours: Pipeline, images: Path, case: Case) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        command = ["umoci", "unpack", "--image", f"{images}:{CASES.index(case)}", f"{scratch}/bundle"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if case.umoci and not case.umoci.startswith("differs"):
            assert result.returncode != 0
            assert case.umoci in result.stderr
            return
        assert result.returncode == 0, result.stderr
        check(ours.unpack(case.tars()), Directory(Path(scratch, "bundle/rootfs")), case, case.umoci)


@pytest.fixture(scope="module")
def podman() -> Iterator[list[str]]:
    """Podman takes no run root longer than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="podman", dir="/dev/shm") as scratch:
        yield ["podman", "--root", f"{scratch}/p", "--runroot", f"{scratch}/r", "--storage-driver", "overlay"]


@pytest.mark.prove
@pytest.mark.e2e("podman")
@of_podman
def test_podman_makes_the_same_or_is_in_the_table(ours: Pipeline, images: Path, podman: list[str], case: Case) -> None:
    command = [*podman, "pull", "--quiet", f"oci:{images}:{CASES.index(case)}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if case.podman and not case.podman.startswith("differs"):
        assert result.returncode != 0
        assert case.podman in result.stderr
        return
    assert result.returncode == 0, result.stderr
    check(ours.unpack(case.tars()), View(podman_layers(podman, result.stdout.strip())), case, case.podman)


def podman_layers(podman: list[str], image: str) -> list[Path]:
    """The directories of an image in podman's store, base first."""
    root = Path(podman[2])
    records = {one["id"]: one for one in json.loads((root / "overlay-layers/layers.json").read_text())}
    stored = json.loads((root / "overlay-images/images.json").read_text())
    layer_id = next(one["layer"] for one in stored if one["id"] == image)
    found: list[Path] = []
    while layer_id:
        found.append(root / "overlay" / layer_id / "diff")
        layer_id = records[layer_id].get("parent", "")
    return found[::-1]


def check(ours: Root, theirs: Root, case: Case, known: str) -> None:
    """Equal, but for what no layer says; or different in just what is known."""
    described = oracle.summary(oracle.apply_all(case.tars()))
    unsaid = {path for path, _ in walk(ours) if path not in described or described[path].mtime_ns is None}
    found = [one for one in compare(ours, theirs) if not is_unsaid(one, unsaid)]
    if known:
        assert {one.aspect for one in found} == set(known.removeprefix("differs: ").split(", ")), found
    else:
        assert found == [], found


def is_unsaid(difference: Difference, unsaid: set[str]) -> bool:
    """A directory that no layer described has the time of its making, and the root whatever mode the tool likes."""
    if difference.path not in unsaid:
        return False
    return difference.aspect == "mtime" or (difference.path == "" and difference.aspect == "mode")
