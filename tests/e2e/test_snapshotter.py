"""kubelet's pulls: Debian's containerd over CRI, its snapshotter ours, the agent beside it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from imagedist.errors import SourceError
from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.runtimes import Podman
from tests.e2e.site import Agent
from tests.e2e.snapshotter import CriContainerd, Snapshotter
from tests.e2e.upstream import NAME
from tests.support.counts import count

pytestmark = [pytest.mark.e2e("docker-registry", "skopeo", "containerd", "podman", "crun")]

APP = f"{NAME}/team/app:1"
TOOL = f"{NAME}/team/tool:1"
BASE = f"{NAME}/team/base:1"
LATE = f"{NAME}/library/late:1"

# Both in one mount namespace; ctr prints the commands that mount a snapshot.
_COMPARE = """
mkdir -p "$DIR/ours" "$DIR/theirs"
ctr --namespace k8s.io snapshots --snapshotter imagedist view "$DIR" "$CHAIN" >/dev/null
ctr --namespace plain snapshots --snapshotter overlayfs view "$DIR" "$CHAIN" >/dev/null
eval "$(ctr --namespace k8s.io snapshots --snapshotter imagedist mounts "$DIR/ours" "$DIR")"
eval "$(ctr --namespace plain snapshots --snapshotter overlayfs mounts "$DIR/theirs" "$DIR")"
"$PYTHON" -m imagedist diff "$DIR/ours" "$DIR/theirs" || true
"""


@pytest.fixture(scope="module")
def _snapshotter(_agents: tuple[Agent, Agent]) -> Iterator[Snapshotter]:
    started = Snapshotter(_agents[0])
    started.start()
    yield started
    started.close()


@pytest.fixture
def snapshotter(_snapshotter: Snapshotter) -> Snapshotter:
    _snapshotter.start()
    return _snapshotter


@pytest.fixture(scope="module")
def cri(base: Path, _agents: tuple[Agent, Agent], _snapshotter: Snapshotter) -> Iterator[CriContainerd]:
    daemon = CriContainerd(Node(base / "k", HOSTS), _agents[0])
    yield daemon
    daemon.stop()


def test_a_kubelets_pull_is_unpacked_by_the_agent_and_containerd_fetches_no_layer(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    with cri.images() as service:
        pulled = service.pull(APP)

    assert pulled == str(images["team/app:1"].image.id)
    assert cri.fetched(images["team/app:1"]) == set()
    assert set(cri.snapshots()) >= {str(layer.chain_id) for layer in images["team/app:1"].image.layers}
    done = cri.run(APP, "/bin/sh", "-c", "cat /etc/imagedist-demo; echo written > /etc/new; cat /etc/new")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [GREETING, "written"]


def test_an_image_under_our_snapshotter_equals_the_same_under_overlayfs(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    with cri.images() as service:
        service.pull(APP)
    pull = ["ctr", "--namespace", "plain", "images", "pull", "--snapshotter", "overlayfs", "--hosts-dir"]
    cri.node.succeed([*pull, str(cri.node.base / "certs.d"), APP])

    top = images["team/app:1"].image.layers[-1].chain_id
    told = cri.node.succeed(
        ["sh", "-euc", _COMPARE], {"DIR": str(tmp_path), "CHAIN": str(top), "PYTHON": sys.executable}
    )

    # No layer describes the root directory: its time is that of the unpacking.
    assert [line for line in told.stdout.splitlines() if not line.startswith("/  mtime: ")] == [], told.stderr


def test_podman_runs_the_very_layers_that_kubelet_pulled(
    cri: CriContainerd, podman: Podman, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    image = images["team/app:1"].image
    with cri.images() as service:
        service.pull(APP)
    unpacked = first.layer_directories()

    # containerd goes on once it has the layers; the agent records the image after that.
    cri.wait_until(lambda: podman.images().get(image.id.hex, False), "podman's read-only image")
    done = podman.run_container(f"{NAME}/team/app@{image.manifest_digest}")
    assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr
    assert first.layer_directories() == unpacked


def test_removing_an_image_frees_what_containerd_alone_had(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    own = images["library/late:1"].image.layers[-1]
    with cri.images() as service:
        service.pull(LATE)
        assert str(own.chain_id) in cri.snapshots()
        unpacked = len(first.layer_directories())

        service.remove(LATE)

    cri.collect()
    assert str(own.chain_id) not in cri.snapshots()
    assert len(first.layer_directories()) < unpacked


def test_images_that_share_a_base_are_pulled_at_once(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    names = ["team/base:1", "team/shared:1", "team/later:1"]

    def pull(name: str) -> str:
        with cri.images() as service:
            return service.pull(f"{NAME}/{name}")

    for _ in range(count(1, 20)):
        with ThreadPoolExecutor(len(names)) as threads:
            pulled = list(threads.map(pull, names))
        assert pulled == [str(images[name].image.id) for name in names]
        assert not any(cri.fetched(images[name]) for name in names)
        with cri.images() as service:
            for name in names:
                service.remove(f"{NAME}/{name}")
        cri.collect()


@pytest.mark.prove
@pytest.mark.timeout(count(300, 1800))
def test_a_pull_survives_the_snapshotter_being_killed(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    chance = random.Random(4)
    for _ in range(count(2, 50)):
        with cri.images() as service, ThreadPoolExecutor(1) as threads:
            pulling = threads.submit(service.pull, BASE)
            snapshotter.kill_after(chance.uniform(0.0, 1.5), pulling)
            snapshotter.start()
            with contextlib.suppress(SourceError):  # kubelet tries again
                pulling.result()
            assert service.pull(BASE) == str(images["team/base:1"].image.id)
            done = cri.run(BASE, "/bin/sh", "-c", "cat /etc/imagedist-demo")
            assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr
            service.remove(BASE)
        cri.collect()
    assert "bad   snap" not in first.try_imagedist("doctor", "--config", str(first.config)).stdout


@pytest.mark.prove
def test_a_pull_survives_the_agent_being_killed(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    chance = random.Random(5)
    for _ in range(count(1, 20)):
        first.start()
        with cri.images() as service, ThreadPoolExecutor(1) as threads:
            pulling = threads.submit(service.pull, TOOL)
            wait([pulling], chance.uniform(0.0, 1.0))
            first.kill()
            assert pulling.result() == str(images["team/tool:1"].image.id)
            service.remove(TOOL)
        cri.collect()


def test_without_the_agent_containerd_pulls_by_itself(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    """Of an image that no other test leaves in the store: what is unpacked already needs no agent."""
    first.stop()

    with cri.images() as service:
        assert service.pull(LATE) == str(images["library/late:1"].image.id)

    assert len(cri.fetched(images["library/late:1"])) > 0
    done = cri.run(LATE, "/bin/sh", "-c", "cat /etc/imagedist-demo")
    assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr
