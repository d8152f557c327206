"""A real dockerd whose file names the mirror, but which has not read it: the doctor says so, and when it has."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.runtimes import CLIENT_CONFIG, Docker
from tests.e2e.site import Agent

pytestmark = [
    pytest.mark.e2e("docker-registry", "skopeo", "docker.io", "containerd"),
    pytest.mark.usefixtures("clean_path"),
]


@pytest.fixture
def docker(base: Path) -> Iterator[Docker]:
    """Started with an empty daemon.json; its node's /etc/docker."""
    node = Node(base / "s", HOSTS)
    config = node.etc / "docker/daemon.json"
    config.parent.mkdir()
    config.write_text("{}\n")
    daemon = Docker(node, config)
    yield daemon
    daemon.stop()


def test_a_mirror_that_dockerd_has_not_read_is_silently_unused_until_it_is_reloaded(
    docker: Docker, first: Agent
) -> None:
    assert _codes(docker, first)["docker"] == "runtime-unconfigured"
    shutil.copyfile(CLIENT_CONFIG / "daemon.json", docker.node.etc / "docker/daemon.json")
    assert _codes(docker, first)["docker"] == "runtime-unheeded"
    docker.reload()
    assert docker.pull("demo:1").returncode == 0
    assert "docker" not in _codes(docker, first), "all is well, and it has been seen asking"


def _codes(docker: Docker, agent: Agent) -> dict[str, str]:
    """What the doctor has to say about each runtime, run where dockerd's files are."""
    command = [sys.executable, "-m", "imagedist", "doctor", "--json", "--config", str(agent.config)]
    told = json.loads(docker.node.run(command, {"DOCKER_HOST": docker.host}).stdout)["findings"]
    kinds = [finding for finding in told if finding["code"].startswith("runtime-")]
    return {finding["what"].split()[0].replace("dockerd", "docker"): finding["code"] for finding in kinds}
