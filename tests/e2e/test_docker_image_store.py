"""Docker with the containerd image store, its storage driver our snapshotter, and containerd as an operator runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from tests.e2e.releases import V1_7, V2, Release
from tests.e2e.site import Agent, Site
from tests.e2e.snapshotter import HOSTS_TOML, CriContainerd, Snapshotter
from tests.e2e.upstream import NAME

pytestmark = [pytest.mark.e2e("docker-registry", "skopeo", "containerd")]

APP = f"{NAME}/team/app:1"
RELEASES = [
    pytest.param(V1_7, id="26", marks=pytest.mark.e2e("containerd/trixie", "docker.io/trixie", "docker-buildx/trixie")),
    pytest.param(V2, id="28", marks=pytest.mark.e2e("containerd/forky", "docker.io/forky", "docker-buildx/forky")),
]


class ImageStore:
    """A dockerd beside a containerd.

    Docker 28 reads hosts.toml of every registry. 26 has a mirror for docker.io only, and asks others itself: that ours
    speaks no TLS, it must be told.
    """

    def __init__(self, base: Path, agent: Agent, release: Release) -> None:
        settings: dict[str, object] = {"features": {"containerd-snapshotter": True}, "storage-driver": "imagedist"}
        if release is V1_7:
            settings |= {"registry-mirrors": [agent.url], "insecure-registries": [NAME]}
        hosts = HOSTS_TOML.format(registry=NAME, mirror=agent.url)
        mirrors = {f"docker/certs.d/{name}/hosts.toml": hosts for name in (NAME, "docker.io")}
        etc = {"docker/daemon.json": json.dumps(settings), **mirrors}
        self.containerd = CriContainerd(base, agent, release, etc)
        flags = ["--iptables=false", "--bridge=none", "--containerd=/run/containerd/containerd.sock"]
        self._process = self.containerd.start_beside(["dockerd", *flags], "dockerd")
        try:
            self._process.wait_until(lambda: self.run("version").returncode == 0, "dockerd")
        except AssertionError:
            self.stop()
            raise

    def run(self, *arguments: str) -> CompletedProcess[str]:
        return self.containerd.node.run(["docker", *arguments])

    def succeed(self, *arguments: str) -> str:
        return self.containerd.node.succeed(["docker", *arguments]).stdout.strip()

    def stop(self) -> None:
        self._process.stop()
        self.containerd.stop()


@pytest.fixture(scope="module", params=RELEASES)
def _node(request: pytest.FixtureRequest, base: Path, _site: Site) -> Iterator[tuple[Agent, ImageStore]]:
    release: Release = request.param
    agent = Agent(base / f"n-d{release.version}", "127.0.0.1:5053", "127.0.0.6:6882", _site)
    agent.start()
    snapshotter = Snapshotter(agent)
    snapshotter.start()
    daemon = ImageStore(base / f"d-{release.version}", agent, release)
    yield agent, daemon
    daemon.stop()
    snapshotter.close()
    agent.stop()


@pytest.fixture
def agent(_node: tuple[Agent, ImageStore], site: Site) -> Agent:
    _node[0].start()
    return _node[0]


@pytest.fixture
def docker(_node: tuple[Agent, ImageStore]) -> ImageStore:
    return _node[1]


@pytest.mark.parametrize(("name", "key"), [(APP, "team/app:1"), ("demo:1", "library/demo:1")])
def test_docker_pulls_and_runs_an_image_that_the_agent_unpacked(
    docker: ImageStore, agent: Agent, images: dict[str, BuiltImage], name: str, key: str
) -> None:
    docker.succeed("pull", name)

    assert docker.containerd.fetched(images[key], "moby") == set()
    script = "cat /etc/imagedist-demo; echo written > /etc/new; cat /etc/new"
    printed = docker.succeed("run", "--rm", "--network", "none", name, "/bin/sh", "-c", script)
    assert printed.splitlines() == [GREETING, "written"]


def test_what_a_container_changed_is_committed_upon_our_layers(docker: ImageStore, agent: Agent) -> None:
    docker.succeed("pull", APP)
    change = "echo more > /etc/new; echo changed > /etc/imagedist-demo"
    docker.succeed("run", "--network", "none", "--name", "box", APP, "/bin/sh", "-c", change)
    assert set(docker.succeed("diff", "box").splitlines()) == {"C /etc", "A /etc/new", "C /etc/imagedist-demo"}

    docker.succeed("commit", "box", "changed:1")
    docker.succeed("rm", "box")

    files = ["cat", "/etc/new", "/etc/imagedist-demo", "/opt/demo/replaced"]
    assert docker.succeed("run", "--rm", "--network", "none", "changed:1", *files).split() == ["more", "changed", "new"]


def test_what_buildkit_builds_upon_our_layers_is_whole(docker: ImageStore, agent: Agent, tmp_path: Path) -> None:
    """It walks the directories of committed snapshots itself, by the paths in their mounts' options."""
    docker.succeed("pull", APP)
    (tmp_path / "file").write_text("copied\n")
    (tmp_path / "Dockerfile").write_text(f"FROM {APP}\nCOPY file /etc/copied\nRUN echo ran > /etc/ran\n")

    docker.succeed("build", "--network", "none", "--tag", "built:1", str(tmp_path))

    files = ["cat", "/etc/copied", "/etc/ran", "/etc/imagedist-demo"]
    printed = docker.succeed("run", "--rm", "--network", "none", "built:1", *files)
    assert printed.splitlines() == ["copied", "ran", GREETING]
    docker.succeed("rmi", "built:1")
    docker.succeed("builder", "prune", "--all", "--force")


def test_without_the_agent_docker_pulls_by_itself(
    docker: ImageStore, agent: Agent, images: dict[str, BuiltImage]
) -> None:
    name = f"{NAME}/library/late:1"
    agent.stop()

    docker.succeed("pull", name)

    assert len(docker.containerd.fetched(images["library/late:1"], "moby")) > 0
    assert docker.succeed("run", "--rm", "--network", "none", name, "cat", "/etc/imagedist-demo") == GREETING


def test_removed_images_leave_no_snapshot(docker: ImageStore, agent: Agent) -> None:
    docker.succeed("pull", APP)
    ids = docker.containerd.ctr("images", "ls", "--quiet", namespace="moby").stdout.split()
    docker.succeed("rmi", "--force", *ids)
    docker.containerd.collect()
    assert docker.containerd.snapshots("moby") == []
