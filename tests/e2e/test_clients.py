"""Every client at once through one mirror: cold, then warm with the registry gone. Its log is the witness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagedist.demo.layout import BuiltImage
from tests.e2e.clients import Client, ContainerdClient, DockerClient, PodmanClient, with_podmans_files
from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.runtimes import SHIPPED_MIRROR, Containerd, Docker, Podman, client_config
from tests.e2e.site import Agent, Site
from tests.e2e.upstream import Upstream

pytestmark = pytest.mark.e2e(
    "docker-registry", "docker.io", "containerd", "podman", "skopeo", "buildah", "umoci", "crun"
)


@pytest.fixture
def of_the_agent(base: Path, first: Agent, docker: Docker, containerd: Containerd, podman: Podman) -> list[Client]:
    """With the shipped files as they are."""
    own = [DockerClient(docker), ContainerdClient(containerd), PodmanClient(podman)]
    return [*own, *with_podmans_files(base / "ca", HOSTS, SHIPPED_MIRROR)]


@pytest.fixture
def of_the_proxy(base: Path, site: Site) -> Iterator[list[Client]]:
    """Without agents, as a small site or a build machine has it."""
    mirror = site.proxy.url.removeprefix("http://")
    home = base / "cp"
    with ExitStack() as stack:
        node = Node(home / "d", HOSTS)
        docker = Docker(node, client_config(node, mirror) / "daemon.json")
        stack.callback(docker.stop)
        containerd = Containerd(Node(home / "c", HOSTS), mirror)
        stack.callback(containerd.stop)
        podman = Podman(Node(home / "p", HOSTS), mirror)
        own = [DockerClient(docker), ContainerdClient(containerd), PodmanClient(podman)]
        yield [*own, *with_podmans_files(home, HOSTS, mirror)]


def test_six_clients_at_once_through_an_agent(
    of_the_agent: list[Client], registry: Upstream, images: dict[str, BuiltImage]
) -> None:
    _prove(of_the_agent, "library/clients-agent:1", registry, images)


def test_six_clients_at_once_through_a_proxy(
    of_the_proxy: list[Client], registry: Upstream, images: dict[str, BuiltImage]
) -> None:
    _prove(of_the_proxy, "library/clients-proxy:1", registry, images)


def _prove(clients: Sequence[Client], image: str, registry: Upstream, images: dict[str, BuiltImage]) -> None:
    built = images[image]
    _pull_at_once(clients, image, built)

    # All but the base layer, which other tests' images share.
    own = [str(built.image.id), *(str(layer.descriptor.digest) for layer in built.image.layers[1:])]
    sent = registry.blobs_sent()
    assert {digest: sent[digest] for digest in own} == dict.fromkeys(own, 1)

    registry.stop()
    for client in clients:
        client.forget(image)
    _pull_at_once(clients, image, built)


def _pull_at_once(clients: Sequence[Client], image: str, built: BuiltImage) -> None:
    with ThreadPoolExecutor(len(clients)) as threads:
        pulls = {client.name: threads.submit(client.pull, image) for client in clients}
        failed = {name: pull.result().stderr for name, pull in pulls.items() if pull.result().returncode}
    assert not failed, "\n".join(failed.values())
    for client in clients:
        client.check(image, built)
