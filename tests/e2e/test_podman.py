"""podman and skopeo with the shipped registries.conf and storage.conf."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from imagedist.demo.tree import expected_tree, node_tree
from imagedist.oci.reference import Reference
from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.releases import V1_7
from tests.e2e.runtimes import Podman
from tests.e2e.site import Agent
from tests.e2e.upstream import NAME, Upstream

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "podman", "crun")


def test_podman_pulls_a_docker_io_name_through_the_mirror(
    podman: Podman, first: Agent, images: dict[str, BuiltImage]
) -> None:
    done = podman.pull("docker.io/library/demo:1")

    assert done.returncode == 0, done.stderr
    assert images["library/demo:1"].image.id.hex in podman.images()


def test_podman_pulls_a_private_image_through_the_mirror(
    podman: Podman, first: Agent, registry: Upstream, images: dict[str, BuiltImage]
) -> None:
    built = images["team/app:1"]

    done = podman.pull(f"{NAME}/team/app:1")

    assert done.returncode == 0, done.stderr
    assert built.image.id.hex in podman.images()
    assert registry.blobs_sent()[str(built.image.layers[1].descriptor.digest)] == 1


def test_skopeo_copies_from_the_mirror_with_the_digest_unchanged(
    podman: Podman, first: Agent, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    done = podman.skopeo(
        "copy",
        "--src-tls-verify=false",
        "docker://127.0.0.1:5050/docker.io/library/demo:1",
        f"oci:{tmp_path / 'copy'}:demo",
    )

    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "copy/index.json").read_text())
    assert index["manifests"][0]["digest"] == str(images["library/demo:1"].image.manifest_digest)


def test_an_image_pulled_by_imagedist_runs_in_podman_from_the_additional_store(
    podman: Podman, first: Agent, images: dict[str, BuiltImage]
) -> None:
    reference = f"{NAME}/team/base:1"

    first.imagedist("pull", reference)

    assert podman.images()[images["team/base:1"].image.id.hex], "podman does not list the image as read-only"
    done = podman.run_container(reference)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == GREETING
    assert node_tree(first.storage, Reference.parse(reference)) == expected_tree(images["team/base:1"])


@pytest.mark.e2e("podman/trixie")
def test_a_newer_podman_does_the_same(base: Path, first: Agent, images: dict[str, BuiltImage]) -> None:
    podman = Podman(Node(base / "p5", HOSTS, first.storage, V1_7.usr))
    assert podman.run("--version").stdout.split()[-1].startswith("5."), "not the podman that was meant"
    tool = images["team/tool:1"].image.id.hex

    first.imagedist("pull", f"{NAME}/team/base:1")
    pulled = podman.pull(f"{NAME}/team/tool:1")

    assert pulled.returncode == 0, pulled.stderr
    assert tool in podman.images()
    assert podman.images()[images["team/base:1"].image.id.hex], "podman does not list the image as read-only"
    done = podman.run_container(f"{NAME}/team/base:1")
    assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr
