"""`imagedist runtimes` as an operator uses it: written, proved by a canary with real runtimes, taken back.

The node's own /etc/containerd and /etc/containers are private copies, so what is written is read from its real place.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.processes import Process, run
from tests.e2e.runtimes import Docker
from tests.e2e.site import Agent
from tests.e2e.snapshotter import Snapshotter
from tests.runtimes.trees import snapshot

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "containerd", "podman", "crun", "docker.io")

_ETC = 'for name in containerd containers docker; do mount --bind "$0/$name" "/etc/$name"; done; exec "$@"'
_PODMAN = """\
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=10000:10000", "nproc=1000:1000"]
[engine]
lock_type = "file"
runtime = "crun"
"""
"""What this kind of test machine allows; see facts on crun and hybrid cgroups."""


class ConfiguredNode:
    """A node with files of its own in /etc, on which commands run as an operator types them."""

    def __init__(self, base: Path, agent: Agent) -> None:
        self._node = Node(base, HOSTS)
        self._agent = agent
        self.etc = base / "etc"
        for name in ("containerd", "containers", "docker"):
            shutil.copytree(f"/etc/{name}", self.etc / name, symlinks=True)
        self._settings = base / "containers.conf"
        self._settings.write_text(_PODMAN)

    def _wrap(self, argv: Sequence[str]) -> list[str]:
        return ["sh", "-c", _ETC, str(self.etc), *argv]

    def runtimes(self, *arguments: str, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
        options = ["--config", str(self._agent.config), "--socket", str(self._agent.config.with_name("agent.sock"))]
        command = [sys.executable, "-m", "imagedist", "runtimes", *arguments, *options, "--json"]
        return self._node.run(self._wrap(command), {"CONTAINERS_CONF": str(self._settings), **(env or {})})

    def told(self, *arguments: str) -> Any:
        done = self.runtimes(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def start_containerd(self) -> Process:
        process = self._node.start(self._wrap(["containerd"]), "containerd")
        address = f"{self._node.run_directory}/containerd/containerd.sock"
        try:
            process.wait_until(lambda: run(["ctr", "--address", address, "version"]).returncode == 0, "containerd")
        except AssertionError:
            process.stop()
            raise
        return process


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
    daemon = node.start_containerd()
    try:
        verdicts = {verdict["key"]: verdict for verdict in node.told("containerd", "podman", "--prove")}
    finally:
        daemon.stop()

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
