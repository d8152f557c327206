"""`imagedist runtimes` as an operator uses it: written, proved by a canary with real runtimes, taken back.

The node's own /etc/containerd and /etc/containers are private copies, so what is written is read from its real place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.configured import ConfiguredNode
from tests.e2e.releases import V1_7, V2, Release
from tests.e2e.runtimes import Docker
from tests.e2e.site import Agent, Site
from tests.e2e.snapshotter import Snapshotter
from tests.runtimes.trees import snapshot

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "containerd", "podman", "crun", "docker.io")


@pytest.fixture(scope="module")
def node(base: Path, _agents: tuple[Agent, Agent]) -> Iterator[ConfiguredNode]:
    snapshotter = Snapshotter(_agents[1])
    snapshotter.start()
    yield ConfiguredNode(base / "r", _agents[1])
    snapshotter.close()


def test_what_is_written_makes_the_runtimes_pull_by_the_mirror_and_run_what_we_unpacked(
    node: ConfiguredNode, second: Agent
) -> None:
    before = snapshot(node.etc)
    verdicts = json.loads(node.runtimes("podman", "--prove").stdout)
    assert "--apply podman" in verdicts[0]["detail"], "the proof was tried before anything was configured"

    told = node.told("containerd", "podman", "--apply")
    assert told["restart"] == ["systemctl restart containerd"]
    with node.running():
        verdicts = {verdict["key"]: verdict for verdict in node.told("containerd", "podman", "--prove")}

    for key in ("containerd", "podman"):
        assert verdicts[key] | {"detail": ""} == {
            "key": key,
            "mirror": "yes",
            "unpacked": "yes",
            "ran": "yes",
            "detail": "",
        }, verdicts[key]["detail"]
    assert not [name for name in second.image_names() if "canary" in name], "the canary was left behind"
    node.told("--undo")
    assert snapshot(node.etc) == before


NEWER = [
    pytest.param(V1_7, id="1.7", marks=pytest.mark.e2e("containerd/trixie", "docker.io/trixie")),
    pytest.param(V2, id="2", marks=pytest.mark.e2e("containerd/forky", "docker.io/forky")),
]


@pytest.fixture(params=NEWER)
def newer_node(request: pytest.FixtureRequest, base: Path, site: Site) -> Iterator[ConfiguredNode]:
    release: Release = request.param
    agent = Agent(base / f"n-r{release.version}", "127.0.0.1:5054", "127.0.0.7:6882", site)
    agent.start()
    snapshotter = Snapshotter(agent)
    snapshotter.start()
    yield ConfiguredNode(base / f"r-{release.version}", agent, release)
    snapshotter.close()
    agent.stop()


def test_newer_containerds_and_docker_with_the_image_store_are_configured_proved_and_given_back(
    newer_node: ConfiguredNode,
) -> None:
    node = newer_node
    # Debian's own config.toml, and the image store as somebody turned it on.
    (node.etc / "docker/daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
    before = snapshot(node.etc)
    with node.running("dockerd"):
        told = node.told("containerd", "docker", "--apply")
    assert told["restart"] == ["systemctl restart containerd", "systemctl restart docker"]

    with node.running("dockerd"):
        verdicts = {verdict["key"]: verdict for verdict in node.told("containerd", "docker", "--prove")}
        node.told("--undo")

    asks_mirror = {"containerd": "yes", "docker": "yes" if node.release is V2 else "-"}
    for key in ("containerd", "docker"):
        wanted = {"key": key, "mirror": asks_mirror[key], "unpacked": "yes", "ran": "yes"}
        assert verdicts[key] | wanted == verdicts[key], verdicts[key]
    assert snapshot(node.etc) == before


@pytest.mark.usefixtures("clean_path")
def test_docker_with_its_graph_driver_gets_a_canary_by_the_mirror_and_unpacks_it_itself(
    node: ConfiguredNode, docker: Docker, second: Agent
) -> None:
    node.told("docker", "--apply")

    done = node.runtimes("docker", "--prove", env={"DOCKER_HOST": docker.host})

    (verdict,) = json.loads(done.stdout)
    assert (verdict["mirror"], verdict["unpacked"], verdict["ran"]) == ("yes", "-", "yes"), verdict["detail"]
    assert not [name for name in docker.names() if "canary" in name]
    node.told("docker", "--undo")


def test_without_an_image_that_the_site_serves_the_proof_says_what_to_give(node: ConfiguredNode, second: Agent) -> None:
    done = node.runtimes("podman", "--prove", "--canary", "elsewhere.example/app:1")
    assert done.returncode == 2
    assert "the site serves no registry elsewhere.example" in done.stderr
    assert "--canary" in done.stderr
