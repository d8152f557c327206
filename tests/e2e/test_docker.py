"""Docker with the shipped daemon.json, overlay2 graph driver."""

from __future__ import annotations

import pytest

from imagedist.demo.layout import BuiltImage
from tests.e2e.runtimes import Docker
from tests.e2e.site import Agent, Site, swarm_bytes
from tests.e2e.upstream import NAME

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "docker.io", "containerd")


def test_docker_pulls_a_docker_io_name_through_the_mirror(
    docker: Docker, first: Agent, images: dict[str, BuiltImage]
) -> None:
    before = first.received_bytes()

    done = docker.pull("demo:1")

    assert done.returncode == 0, done.stderr
    assert docker.image_id("demo:1") == str(images["library/demo:1"].image.id)
    assert sum(first.received_bytes().values()) > sum(before.values())


@pytest.mark.usefixtures("clean_path")
def test_pull_into_docker_brings_a_private_image_over_the_swarm_under_its_real_name(
    docker: Docker, site: Site, first: Agent, second: Agent, images: dict[str, BuiltImage]
) -> None:
    # The first few nodes that want a blob stream it; the next ones join the swarm.
    second.imagedist("pull", f"{NAME}/team/app:1")
    layers = images["team/app:1"].image.layers
    large = [layer.descriptor.digest for layer in layers if layer.descriptor.size_bytes > 1 << 20]
    second.wait_seeding(large)
    site.others_want("team/app", large)
    before = first.received_bytes()

    first.imagedist("pull", f"{NAME}/team/app:1", "--into", "docker", env={"DOCKER_HOST": docker.host})

    assert f"{NAME}/team/app:1" in docker.names()
    assert docker.image_id(f"{NAME}/team/app:1") == str(images["team/app:1"].image.id)
    assert not [name for name in docker.names() if name.startswith("127.0.0.1")], "the mirror's name was left behind"
    assert swarm_bytes(first.received_bytes(), before) > 0
