"""The environment itself, without imagedist: real clients pull from the real registry, and a container runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.runtimes import Docker, Podman
from tests.e2e.upstream import NAME, Upstream

pytestmark = pytest.mark.e2e


def test_docker_pulls_straight_from_the_registry(
    docker: Docker, registry: Upstream, images: dict[str, BuiltImage]
) -> None:
    done = docker.pull(f"{NAME}/team/base:1")

    assert done.returncode == 0, done.stderr
    assert docker.image_id(f"{NAME}/team/base:1") == str(images["team/base:1"].image.id)
    assert docker.run("rmi", f"{NAME}/team/base:1").returncode == 0


def test_podman_runs_the_image(base: Path, registry: Upstream, images: dict[str, BuiltImage]) -> None:
    podman = Podman(Node(base / "q", HOSTS))
    # By its address, which no [[registry]] table rewrites.
    loaded = podman.skopeo("copy", f"oci:{images['team/base:1'].layout}", "containers-storage:localhost/base:1")
    assert loaded.returncode == 0, loaded.stderr

    done = podman.run_container("localhost/base:1")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == GREETING
