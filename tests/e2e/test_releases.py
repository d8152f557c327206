"""Each containerd that there is, with the configuration shipped for it: what kubelet, its user and ``ctr`` see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from tests.e2e.releases import RELEASES, V1_6, V1_7, V2, Release
from tests.e2e.site import Agent, Site
from tests.e2e.snapshotter import WAITS, CriContainerd, Snapshotter, difference, with_command
from tests.e2e.upstream import NAME, Upstream
from tests.support.cri.pods_pb2 import IDMapping

pytestmark = [pytest.mark.e2e("docker-registry", "skopeo", "containerd")]

APP = f"{NAME}/team/app:1"
TOOL = f"{NAME}/team/tool:1"
LATE = f"{NAME}/library/late:1"


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    return request.param


@pytest.fixture(scope="module")
def _agent(base: Path, _site: Site, release: Release) -> Iterator[Agent]:
    """Its store belongs to one containerd alone: another's garbage collection would take its snapshots."""
    agent = Agent(base / f"n-{release.version}", "127.0.0.1:5052", "127.0.0.5:6882", _site)
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture
def agent(_agent: Agent, site: Site) -> Agent:
    _agent.start()
    return _agent


@pytest.fixture(scope="module")
def cri(base: Path, release: Release, _agent: Agent) -> Iterator[CriContainerd]:
    snapshotter = Snapshotter(_agent)
    snapshotter.start()
    daemon = CriContainerd(base / f"k-{release.version}", _agent, release)
    yield daemon
    daemon.stop()
    snapshotter.close()


def test_it_is_the_release_that_it_is_said_to_be(cri: CriContainerd) -> None:
    assert re.search(rf"Version: +v?{re.escape(cri.release.version)}\.", cri.ctr("version").stdout.split("Server")[1])


def test_a_kubelets_pull_is_unpacked_by_the_agent_and_containerd_fetches_no_layer(
    cri: CriContainerd, agent: Agent, images: dict[str, BuiltImage]
) -> None:
    with cri.images() as service:
        pulled = service.pull(APP)

    assert pulled == str(images["team/app:1"].image.id)
    assert cri.fetched(images["team/app:1"]) == set()
    assert set(cri.snapshots()) >= {str(layer.chain_id) for layer in images["team/app:1"].image.layers}
    done = cri.run(APP, "/bin/sh", "-c", "cat /etc/imagedist-demo; echo written > /etc/new; cat /etc/new")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [GREETING, "written"]


def test_an_image_equals_the_same_under_overlayfs(
    cri: CriContainerd, agent: Agent, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    with cri.images() as service:
        service.pull(APP)
    # No layer describes the root directory: its time is that of the unpacking.
    found = difference(cri, APP, images["team/app:1"], tmp_path)
    assert [line for line in found if not line.startswith("/  mtime: ")] == []


def test_a_pod_and_its_container_run_from_layers_that_we_unpacked(
    cri: CriContainerd, agent: Agent, registry: Upstream, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    pause = with_command(images["team/base:1"], tmp_path / "pause", WAITS)
    registry.push(pause, cri.pause())
    with cri.images() as service:
        service.pull(APP)

    with cri.runtime().pod("pod") as pod:  # containerd pulls the pause image, as a first pod makes it
        done = pod.run("app", APP, "/bin/sh", "-c", "cat /etc/imagedist-demo; echo written > /etc/new; cat /etc/new")

    assert (done.exit_code, done.printed.splitlines()) == (0, [GREETING, "written"])
    assert cri.fetched(pause) == set()
    assert not [name for name in cri.snapshots() if not name.startswith("sha256:")], "a snapshot was left behind"


def test_a_pod_with_users_of_its_own_sees_the_images_files_as_they_are(
    cri: CriContainerd, agent: Agent, registry: Upstream, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    if cri.release is V1_6:
        return  # it knows no user namespaces
    registry.push(with_command(images["team/base:1"], tmp_path / "pause", WAITS), cri.pause())
    with cri.images() as service:
        service.pull(APP)
    before = set(cri.snapshots())
    script = "cat /proc/self/uid_map; ls -ln /etc/imagedist-demo; echo written > /etc/new; ls -ln /etc/new"

    with cri.runtime().pod("mapped", [IDMapping(host_id=100_000, length=65_536)]) as pod:
        done = pod.run("mapped-app", APP, "/bin/sh", "-c", script)
        made = set(cri.snapshots()) - before

    assert done.exit_code == 0, done.printed
    mapping, *files = done.printed.splitlines()
    assert mapping.split() == ["0", "100000", "65536"]
    assert [line.split()[2:4] for line in files] == [["0", "0"]] * 2
    # containerd 1.7 keeps a copy whose files have other owners; 2 needs none.
    copies = [name for name in made if name.endswith("-100000-100000")]
    assert bool(copies) == (cri.release is V1_7), made


def test_kubelet_is_told_where_the_images_are(cri: CriContainerd, agent: Agent) -> None:
    directory = cri.runtime().images_directory()

    assert cri.node.run(["test", "-d", str(directory)]).returncode == 0, directory


def test_without_the_agent_containerd_pulls_by_itself(
    cri: CriContainerd, agent: Agent, images: dict[str, BuiltImage]
) -> None:
    agent.stop()

    with cri.images() as service:
        assert service.pull(LATE) == str(images["library/late:1"].image.id)

    assert len(cri.fetched(images["library/late:1"])) > 0
    done = cri.run(LATE, "/bin/sh", "-c", "cat /etc/imagedist-demo")
    assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr


def test_ctr_pulls_and_runs_an_image_under_our_snapshotter(
    cri: CriContainerd, agent: Agent, images: dict[str, BuiltImage]
) -> None:
    """containerd 2 by its transfer service, which says whose a layer is; those before fetch all first."""
    pull = ["images", "pull", "--hosts-dir", "/etc/containerd/certs.d", "--snapshotter", "imagedist"]
    cri.node.succeed(["ctr", *pull, TOOL])

    layers = images["team/tool:1"].image.layers
    is_ours = cri.release is V2
    assert len(cri.fetched(images["team/tool:1"], "default")) == (0 if is_ours else len(layers))
    done = cri.run(TOOL, "/bin/sh", "-c", "cat /etc/imagedist-demo", namespace="default")
    assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr
