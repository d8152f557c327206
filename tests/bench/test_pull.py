"""One image by every way onto a machine: through imagedist, and through another system's endpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench import images
from bench.contestant import Contestant
from bench.directories import short_directory
from bench.places import Place
from bench.pull import Mirror, Through, contestants, mirrors
from bench.registry import Registry, registry
from bench.result import Contestant as Measured
from bench.rounds import Job, measure
from bench.session import Settings
from bench.unpack import CONTESTANTS


def pulled(contestant: Contestant, reference: str, directory: Path, running: Registry) -> Measured:
    place = Place(directory, is_synced=False)
    job = Job(contestant.name, contestant, reference, is_warmed_up=False)
    (row,) = measure([job], place, running, 1, reference, lambda line: None)
    return row


@pytest.mark.root
@pytest.mark.e2e("docker-registry", "skopeo", "docker.io", "containerd", "podman")
@pytest.mark.parametrize("name", ["docker", "cri", "podman"])
def test_a_runtime_pulls_through_the_agent_of_its_node(name: str) -> None:
    with short_directory() as directory, registry(directory / "registry") as running:
        reference = running.add(images.tiny(directory / "cache"), "bench/tiny:1")
        row = pulled(Through(CONTESTANTS[name]), reference, directory, running)
    assert row.not_run is None
    assert row.name == f"{name}, through imagedist"
    assert row.runs[0].figures["site_cpu_seconds"] > 0, "the site had a part in it"


@pytest.mark.root
@pytest.mark.e2e("docker-registry", "skopeo", "containerd")
def test_another_systems_endpoint_is_the_only_way_to_the_image() -> None:
    with short_directory() as directory, registry(directory / "registry") as running:
        address, _, name = running.add(images.tiny(directory / "cache"), "bench/tiny:1").partition("/")
        there = Mirror("kraken", f"http://{address}", f"registry.invalid/{name}")
        gone = dataclasses.replace(there, url="http://127.0.0.1:9")
        rows = [pulled(one, f"{address}/{name}", directory, running) for one in (there, gone)]
    assert len(rows[0].runs) == 1, rows[0].not_run
    assert rows[1].runs == ()
    assert "ctr could not pull" in (rows[1].not_run or "")


def test_an_endpoint_cannot_pull_what_only_this_benchmark_has(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path, None, "small", 1, lambda line: None)
    (kraken,) = mirrors(settings, {"kraken": "http://127.0.0.1:4001"})
    assert "name such an image with --image" in (kraken.cannot() or "")
    (spegel,) = mirrors(dataclasses.replace(settings, image="ghcr.io/a/b:1"), {"spegel": "http://127.0.0.1:4001"})
    assert isinstance(spegel, Mirror)
    assert spegel.reference == "ghcr.io/a/b:1"


def test_every_runtime_is_pulled_with_straight_and_those_that_can_through_imagedist() -> None:
    names = [one.name for one in contestants()]
    assert len(names) == len(set(names))
    assert {"docker", "docker, through imagedist", "nerdctl", "agent", "cri-imagedist", "skopeo+umoci"} <= set(names)
