"""Runtimes that no Debian has, the real ones: configured by `imagedist runtimes`, proved by a canary, given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.configured import ConfiguredNode
from tests.e2e.site import Agent
from tests.e2e.snapshotter import Snapshotter
from tests.runtimes.trees import snapshot

pytestmark = [pytest.mark.prove, pytest.mark.e2e("docker-registry", "skopeo", "containerd", "podman", "crun")]


@pytest.fixture(scope="module")
def node(base: Path, _agents: tuple[Agent, Agent]) -> Iterator[ConfiguredNode]:
    snapshotter = Snapshotter(_agents[1])
    snapshotter.start()
    yield ConfiguredNode(base / "b", _agents[1], has_built=True)
    snapshotter.close()


@pytest.mark.peer("nerdctl")
def test_nerdctl_pulls_by_the_mirror_and_runs_what_we_unpacked(node: ConfiguredNode, second: Agent) -> None:
    (node.etc / "nerdctl").mkdir()
    (node.etc / "cni/net.d").mkdir(parents=True)  # nerdctl locks a file there
    before = {name: snapshot(node.etc / name) for name in ("containerd", "nerdctl")}

    told = node.told("containerd", "nerdctl", "--apply")
    assert told["restart"] == ["systemctl restart containerd"]
    with node.running():
        (verdict,) = node.told("nerdctl", "--prove")

    wanted = {"mirror": "yes", "unpacked": "yes", "ran": "yes"}
    assert verdict | wanted == verdict
    node.told("--undo")
    assert {name: snapshot(node.etc / name) for name in before} == before
