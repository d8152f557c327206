"""Something is down: what each runtime does then. README.md, "When X is down", says the same in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imagedist.demo.layout import BuiltImage
from tests.e2e.runtimes import Containerd, Docker, Podman
from tests.e2e.site import Agent, Site
from tests.e2e.upstream import NAME, Upstream

pytestmark = pytest.mark.e2e


@pytest.fixture
def stopped_upstream(site: Site, registry: Upstream) -> Iterator[None]:
    registry.stop()
    yield
    registry.start()


@pytest.fixture
def stopped_agent(first: Agent) -> Iterator[None]:
    first.stop()
    yield
    first.start()


@pytest.fixture
def stopped_site(first: Agent, site: Site) -> Iterator[None]:
    site.stop()
    yield
    site.start()


class TestUpstreamStopped:
    def test_a_node_that_never_had_the_image_gets_it_from_the_site(
        self, first: Agent, second: Agent, registry: Upstream
    ) -> None:
        first.imagedist("pull", "docker.io/library/demo:1")
        registry.stop()

        second.imagedist("pull", "docker.io/library/demo:1")

        assert "docker.io/library/demo:1" in second.image_names()

    def test_podman_pulls_what_the_site_has(self, first: Agent, podman: Podman, registry: Upstream) -> None:
        first.imagedist("pull", f"{NAME}/team/shared:1")
        podman.run("rmi", "--force", f"{NAME}/team/shared:1")
        registry.stop()

        done = podman.pull(f"{NAME}/team/shared:1")

        assert done.returncode == 0, done.stderr

    @pytest.mark.usefixtures("stopped_upstream")
    def test_an_image_nobody_has_ends_in_one_line_that_names_it(self, first: Agent) -> None:
        done = first.try_imagedist("pull", "docker.io/library/late:1")

        assert done.returncode == 1
        assert "library/late" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("stopped_agent")
class TestAgentStopped:
    def test_docker_goes_to_docker_io_itself(self, docker: Docker) -> None:
        done = docker.pull("late:1")

        assert done.returncode != 0
        assert "registry-1.docker.io" in done.stderr

    def test_ctr_goes_to_the_registry_itself(self, containerd: Containerd, images: dict[str, BuiltImage]) -> None:
        done = containerd.pull(f"{NAME}/team/later:1", "--plain-http")

        assert done.returncode == 0, done.stderr
        assert containerd.digest(f"{NAME}/team/later:1") == str(images["team/later:1"].image.manifest_digest)

    def test_podman_goes_to_the_registry_itself(self, podman: Podman, images: dict[str, BuiltImage]) -> None:
        done = podman.pull(f"{NAME}/team/later:1")

        assert done.returncode == 0, done.stderr
        assert images["team/later:1"].image.id.hex in podman.images()

    def test_containers_of_the_unpacked_store_still_start(self, podman: Podman, first: Agent) -> None:
        first.start()
        first.imagedist("pull", f"{NAME}/team/base:1")
        first.stop()

        done = podman.run_container(f"{NAME}/team/base:1")

        assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("stopped_site")
class TestSiteStopped:
    def test_docker_goes_to_docker_io_itself(self, docker: Docker) -> None:
        done = docker.pull("late:1")

        assert done.returncode != 0
        assert "registry-1.docker.io" in done.stderr

    def test_ctr_goes_to_the_registry_itself(self, containerd: Containerd) -> None:
        name = f"{NAME}/team/later:1"
        containerd.run("images", "rm", "--sync", name)

        done = containerd.pull(name, "--plain-http")

        assert done.returncode == 0, done.stderr

    def test_podman_goes_to_the_registry_itself(self, podman: Podman) -> None:
        podman.run("rmi", "--force", f"{NAME}/team/later:1")

        done = podman.pull(f"{NAME}/team/later:1")

        assert done.returncode == 0, done.stderr

    def test_imagedist_pull_says_that_the_site_does_not_answer(self, first: Agent) -> None:
        done = first.try_imagedist("pull", f"{NAME}/team/later:1")

        assert done.returncode == 1
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr
