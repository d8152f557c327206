"""The end-to-end environment: one upstream, one site, two agents, three runtimes, for the whole test run.

Nothing is installed or configured on the machine: everything lives in one directory and in private mount namespaces.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.demo.image import build
from imagedist.demo.layout import BuiltImage
from tests.e2e import upstream as upstream_registry
from tests.e2e.node import Node
from tests.e2e.runtimes import Containerd, Docker, Podman
from tests.e2e.site import Agent, Site
from tests.e2e.upstream import Upstream

_NEEDED_BYTES = 3 << 30
_NOBODY = "127.0.0.9"
"""An address where nothing listens: what "the outside world" answers here, at once and on every machine."""

HOSTS = {
    "registry.local": upstream_registry.HOST,
    "registry-1.docker.io": _NOBODY,
    "index.docker.io": _NOBODY,
    "auth.docker.io": _NOBODY,
}

IMAGES = {
    "library/demo:1": 24_000_000,
    "library/late:1": 8_000_000,
    "team/app:1": 20_000_000,
    "team/tool:1": 8_000_000,
    "team/base:1": 8_000_000,
    "team/shared:1": 16_000_000,
    "team/later:1": 8_000_000,
    "library/clients-agent:1": 12_000_000,
    "library/clients-proxy:1": 12_000_000,
}
"""What counts bytes has an image of its own: no two share a blob but their small base layer."""


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A short-named directory on a file system that overlay mounts accept: RAM if there is enough of it."""
    shm = Path("/dev/shm")
    is_roomy = shm.is_dir() and shutil.disk_usage(shm).free > _NEEDED_BYTES
    directory = Path(tempfile.mkdtemp(prefix="e2e-", dir=shm if is_roomy else None))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def images(base: Path) -> dict[str, BuiltImage]:
    """Built from this machine's files; by ``repository:tag``."""
    return {
        name: build(base / "images" / name.replace("/", "-").replace(":", "-"), name=name, size_bytes=size_bytes)
        for name, size_bytes in IMAGES.items()
    }


@pytest.fixture(scope="session")
def registry(base: Path, images: dict[str, BuiltImage]) -> Iterator[Upstream]:
    """The real docker-registry with every image pushed; tests that stop it start it again."""
    upstream = Upstream(base / "upstream")
    try:
        for name, built in images.items():
            upstream.push(built, name)
        yield upstream
    finally:
        upstream.stop()


@pytest.fixture(scope="session")
def _site(base: Path, registry: Upstream) -> Iterator[Site]:
    site = Site(base / "site", registry.url)
    try:
        site.start()
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="session")
def _agents(base: Path, _site: Site) -> Iterator[tuple[Agent, Agent]]:
    first = Agent(base / "n1", "127.0.0.1:5050", "127.0.0.2:6882", _site)
    second = Agent(base / "n2", "127.0.0.1:5051", "127.0.0.3:6882", _site)
    try:
        first.start()
        second.start()
        yield first, second
    finally:
        second.stop()
        first.stop()


@pytest.fixture
def site(registry: Upstream, _site: Site) -> Site:
    """The site, running, whatever the test before did to it."""
    registry.start()
    _site.start()
    return _site


@pytest.fixture
def first(site: Site, _agents: tuple[Agent, Agent]) -> Agent:
    """The agent at 127.0.0.1:5050, where the shipped client configurations look for it."""
    _agents[0].start()
    return _agents[0]


@pytest.fixture
def second(site: Site, _agents: tuple[Agent, Agent]) -> Agent:
    _agents[1].start()
    return _agents[1]


@pytest.fixture(scope="session")
def docker(base: Path) -> Iterator[Docker]:
    daemon = Docker(Node(base / "d", HOSTS))
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def containerd(base: Path) -> Iterator[Containerd]:
    daemon = Containerd(Node(base / "c", HOSTS))
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def podman(base: Path, _agents: tuple[Agent, Agent]) -> Podman:
    """Its additional image store is the first agent's storage root."""
    return Podman(Node(base / "p", HOSTS, _agents[0].storage))


@pytest.fixture
def clean_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's own clients first."""
    monkeypatch.setenv("PATH", f"/usr/bin:/usr/sbin:{os.environ['PATH']}")
