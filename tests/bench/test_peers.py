"""Peers that nobody packages, the real ones: they pull, leave nothing behind, and have unpacked what they were to."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from pathlib import Path

import pytest

from bench import images, soci
from bench.account import TreeAccount
from bench.directories import short_directory
from bench.processes import BUILT
from bench.registry import registry
from bench.unpack import CONTESTANTS
from imagedist.demo.layout import BuiltImage
from tests.bench.test_unpack import pull_once

PEERS = {"nerdctl": "nerdctl", "containerd-parallel": "containerd", "soci": "soci"}
"""Contestant → what deploy/peers.sh builds for it."""


@pytest.mark.prove
@pytest.mark.e2e("docker-registry", "skopeo", "containerd")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.peer(peer)) for name, peer in PEERS.items()])
def test_a_peer_that_nobody_packages_pulls_and_leaves_nothing(name: str) -> None:
    with short_directory() as directory:
        with registry(directory / "registry") as running:
            pull_once(CONTESTANTS[name], directory, running)
        assert str(directory) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.prove
@pytest.mark.e2e("docker-registry", "skopeo", "containerd")
@pytest.mark.peer("soci")
def test_socis_parallel_mode_has_unpacked_every_file_when_its_pull_is_over() -> None:
    with short_directory() as directory, registry(directory / "registry") as running:
        built = images.own(directory / "cache", 4_000_000)
        reference, store = running.add(built, "bench/own:1"), directory / "store"
        store.mkdir()
        with CONTESTANTS["soci"].ready(store, TreeAccount(), reference.partition("/")[0]) as ready:
            assert ready.call is not None
            ready.call(reference)
            mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(store) in line]
            assert mounts == [], "a layer is mounted, not unpacked"
            files = [
                path for path in (store / soci.LAYERS).glob("*/fs/**/*") if path.is_file() and not path.is_symlink()
            ]
            unpacked = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        wanted = file_digests(built)
    assert len(wanted) > 100
    assert wanted <= unpacked


def file_digests(built: BuiltImage) -> set[str]:
    """Of the content of every file of every layer."""
    found = set()
    for layer in built.image.layers:
        with gzip.open(built.blob(layer.descriptor.digest)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for entry in tar:
                if entry.isreg() and not Path(entry.name).name.startswith(".wh."):
                    content = tar.extractfile(entry)
                    assert content is not None
                    found.add(hashlib.sha256(content.read()).hexdigest())
    return found


def test_what_is_told_to_build_a_missing_peer_builds_one() -> None:
    table = (Path(__file__).parents[2] / "deploy/peers.sh").read_text()
    assert all(f"\n{peer} github.com/" in table for peer in PEERS.values())
    assert set(PEERS.values()) < set(BUILT.values())
