"""kubelet's pulls: Debian's containerd over CRI, its snapshotter ours, the agent beside it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from imagedist.errors import SourceError
from tests.e2e.runtimes import Podman
from tests.e2e.site import Agent
from tests.e2e.snapshotter import CriContainerd, Snapshotter, difference
from tests.e2e.upstream import NAME
from tests.support.counts import count

pytestmark = [pytest.mark.e2e("docker-registry", "skopeo", "containerd", "podman", "crun")]

APP = f"{NAME}/team/app:1"
TOOL = f"{NAME}/team/tool:1"
BASE = f"{NAME}/team/base:1"
LATE = f"{NAME}/library/late:1"

# Written to, committed, built upon and committed again, with whiteouts and a directory that is there anew.
_COMMIT = """
built() {
    of() { command="$1"; shift; ctr --namespace "$NAMESPACE" snapshots --snapshotter "$SNAPSHOTTER" "$command" "$@"; }
    NAMESPACE="$1" SNAPSHOTTER="$2" root="$DIR/$2"
    mkdir -p "$root"
    of prepare changing "$CHAIN" >/dev/null
    eval "$(of mounts "$root" changing)"
    echo written >"$root/etc/new"
    rm "$root/etc/imagedist-demo"
    mkdir -m 700 "$root/etc/made"
    echo 1 >"$root/etc/made/one"
    ln "$root/etc/new" "$root/etc/linked"
    chown 7:8 "$root/bin"
    umount "$root"
    of commit changed changing
    of prepare building changed >/dev/null
    eval "$(of mounts "$root" building)"
    rm -r "$root/etc/made"
    mkdir "$root/etc/made"
    echo more >>"$root/etc/new"
    umount "$root"
    of commit built building
    of view "$root-view" built >/dev/null
    eval "$(of mounts "$root" "$root-view")"
}
built k8s.io imagedist
built plain overlayfs
"$PYTHON" -m imagedist diff "$DIR/imagedist" "$DIR/overlayfs" || true
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
    daemon = CriContainerd(base / "k", _agents[0])
    yield daemon
    daemon.stop()


def test_what_is_written_committed_and_built_upon_equals_the_same_under_overlayfs(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    with cri.images() as service:
        service.pull(APP)
    found = difference(cri, APP, images["team/app:1"], tmp_path, _COMMIT)
    assert [line for line in found if " mtime: " not in line] == []


def test_containers_and_snapshots_outlive_a_restart_of_both_sides(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    with cri.images() as service:
        service.pull(APP)
    lasting = cri.begin(APP, "lasting")
    # What another test has made by hand, containerd's garbage collection may take meanwhile.
    before = {name for name in cri.snapshots() if name == lasting or name.startswith("sha256:")}

    snapshotter.kill()
    cri.restart()
    snapshotter.start()

    assert lasting in before
    assert set(cri.snapshots()) >= before
    assert "RUNNING" in cri.ctr("task", "ls").stdout
    cri.end("lasting")
    with cri.images() as service:
        assert service.pull(APP) == str(images["team/app:1"].image.id)
    assert cri.run(APP, "/bin/sh", "-c", "cat /etc/imagedist-demo").stdout.strip() == GREETING


@pytest.mark.prove
@pytest.mark.timeout(count(300, 1800))
def test_a_containers_start_survives_the_snapshotter_being_killed(
    cri: CriContainerd, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    chance = random.Random(6)
    with cri.images() as service:
        service.pull(APP)
    for number in range(count(2, 50)):
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(cri.run, APP, "/bin/sh", "-c", "cat /etc/imagedist-demo", container=f"at{number}")
            wait([running], chance.uniform(0.0, 0.4))
            snapshotter.kill()
            snapshotter.start()
            running.result()
        again = cri.run(APP, "/bin/sh", "-c", "cat /etc/imagedist-demo", container=f"again{number}")
        assert (again.returncode, again.stdout.strip()) == (0, GREETING), again.stderr
        cri.end(f"at{number}")
    cri.collect()
    assert "bad     snapshot" not in first.try_imagedist("doctor", "--config", str(first.config)).stdout


def test_podman_runs_the_very_layers_that_kubelet_pulled(
    cri: CriContainerd, podman: Podman, first: Agent, snapshotter: Snapshotter, images: dict[str, BuiltImage]
) -> None:
    image = images["team/base:1"].image
    with cri.images() as service:
        service.pull(BASE)
    unpacked = first.layer_directories()

    first.imagedist("pull", BASE)  # containerd may have found every layer there, and asked for no image
    assert podman.images()[image.id.hex], "podman does not list the image as read-only"
    done = podman.run_container(f"{NAME}/team/base@{image.manifest_digest}")
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
    assert "bad     snapshot" not in first.try_imagedist("doctor", "--config", str(first.config)).stdout


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
