"""Private images by each runtime's own logins: what reaches the mirror (docs/private-images.md has the table)."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bench.cri.client import Login
from imagedist.demo.layout import BuiltImage
from imagedist.errors import SourceError
from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.private import PASSWORD, PrivateRegistry, TokenServer
from tests.e2e.releases import RELEASES, Release
from tests.e2e.runtimes import Docker
from tests.e2e.site import Agent, Site
from tests.e2e.snapshotter import HOSTS_TOML, CriContainerd, Snapshotter
from tests.e2e.test_docker_image_store import RELEASES as IMAGE_STORES
from tests.e2e.test_docker_image_store import ImageStore
from tests.e2e.upstream import HOST

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "podman", "docker.io", "containerd")

MIRROR = "127.0.0.1:5056"
TOKEN_PORT, BASIC_PORT = 5003, 5004
TOKEN, BASIC = f"token.local:{TOKEN_PORT}", f"basic.local:{BASIC_PORT}"
VAULT = f"vault.local:{BASIC_PORT}"
"""The htpasswd registry by another name, for which the site has an account."""
KEYS = {TOKEN: "token", BASIC: "basic", VAULT: "vault"}
REGISTRIES = pytest.mark.parametrize("registry", [TOKEN, BASIC], ids=["token", "htpasswd"])
PRIVATE_HOSTS = HOSTS | {"token.local": HOST, "basic.local": HOST, "vault.local": HOST}

_UPSTREAMS = f"""
[upstreams."docker.io"]
url = "http://{HOST}:{TOKEN_PORT}"
mode = "passthrough"
[upstreams.token]
url = "http://{HOST}:{TOKEN_PORT}"
hosts = ["{TOKEN}"]
mode = "passthrough"
[upstreams.basic]
url = "http://{HOST}:{BASIC_PORT}"
hosts = ["{BASIC}"]
mode = "passthrough"
[upstreams.vault]
url = "http://{HOST}:{BASIC_PORT}"
hosts = ["{VAULT}"]
username = "alice"
password_file = "{{base}}/password"
"""
_REGISTRIES_CONF = "".join(
    f"""
[[registry]]
location = "{name}"
insecure = true
[[registry.mirror]]
location = "{MIRROR}/{key}"
insecure = true
"""
    for name, key in KEYS.items()
)
_CONTAINERS_CONF = """\
[engine]
lock_type = "file"
"""


class World:
    """Two private registries behind one site, and an agent as the mirror of every runtime."""

    def __init__(self, base: Path, images: dict[str, BuiltImage]) -> None:
        base.mkdir()
        self.base = base
        built, other = images["team/tool:1"], images["library/late:1"]
        self.tokens = TokenServer(
            base, {"team/app": {"alice"}, "library/secret": {"alice"}, "library/open": {"", "bob"}}
        )
        self.registries = {
            TOKEN: PrivateRegistry.by_token(base / "t", TOKEN_PORT, self.tokens),
            BASIC: PrivateRegistry.by_htpasswd(base / "h", BASIC_PORT),
        }
        for name in ("team/app:1", "library/secret:1"):
            self.registries[TOKEN].push(built, name)
        self.registries[TOKEN].push(other, "library/open:1")
        self.registries[BASIC].push(built, "team/app:1")
        self.site = Site(base / "site", "", upstreams=_UPSTREAMS)
        (base / "site/password").write_text(PASSWORD)
        self.site.start()
        self.agent = Agent(base / "n", MIRROR, "127.0.0.7:6882", self.site)
        self.agent.start()

    def check_that_no_runtime_asked_upstream(self) -> None:
        assert {name: registry.runtimes_that_asked() for name, registry in self.registries.items()} == {
            TOKEN: set(),
            BASIC: set(),
        }

    def stop(self) -> None:
        self.agent.stop()
        self.site.stop()
        for registry in self.registries.values():
            registry.stop()
        self.tokens.stop()


@pytest.fixture(scope="module")
def _world(base: Path, images: dict[str, BuiltImage]) -> Iterator[World]:
    world = World(base / "private", images)
    yield world
    world.stop()


@pytest.fixture
def world(_world: World) -> World:
    for registry in _world.registries.values():
        registry.forget()
    return _world


@pytest.fixture(scope="module")
def private_docker(base: Path, _world: World) -> Iterator[Docker]:
    node = Node(base / "pd", PRIVATE_HOSTS)
    config = node.base / "daemon.json"
    config.write_text(json.dumps({"registry-mirrors": [f"http://{MIRROR}"]}))
    daemon = Docker(node, config)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module", params=RELEASES)
def cri(request: pytest.FixtureRequest, base: Path, _world: World) -> Iterator[CriContainerd]:
    """With an agent of its own, which has its snapshots."""
    release: Release = request.param
    agent = Agent(base / f"pn-{release.version}", "127.0.0.1:5057", "127.0.0.8:6882", _world.site)
    agent.start()
    snapshotter = Snapshotter(agent)
    snapshotter.start()
    hosts = {
        f"containerd/certs.d/{name}/hosts.toml": HOSTS_TOML.format(registry=name, mirror=agent.url) for name in KEYS
    }
    daemon = CriContainerd(base / f"pk-{release.version}", agent, release, etc=hosts, hosts=PRIVATE_HOSTS)
    yield daemon
    daemon.stop()
    snapshotter.close()
    agent.stop()


@pytest.fixture(scope="module", params=IMAGE_STORES)
def image_store(request: pytest.FixtureRequest, base: Path, _world: World) -> Iterator[ImageStore]:
    release: Release = request.param
    agent = Agent(base / f"pi-{release.version}", "127.0.0.1:5058", "127.0.0.9:6882", _world.site)
    agent.start()
    snapshotter = Snapshotter(agent)
    snapshotter.start()
    daemon = ImageStore(base / f"ps-{release.version}", agent, release)
    yield daemon
    daemon.stop()
    snapshotter.close()
    agent.stop()


class Podman:
    """podman and skopeo of a user with the logins of one ``auth.json``."""

    def __init__(self, base: Path) -> None:
        self._node = Node(base, PRIVATE_HOSTS)
        files = {"registries.conf": _REGISTRIES_CONF, "containers.conf": _CONTAINERS_CONF, "auth.json": "{}"}
        for name, content in files.items():
            (base / name).write_text(content)
        self._auth = base / "auth.json"
        self._env = {
            "CONTAINERS_CONF": str(base / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(base / "registries.conf"),
            "REGISTRY_AUTH_FILE": str(self._auth),
        }

    def log_in(self, *names: str, user: str = "alice") -> None:
        self._auth.write_text(json.dumps({"auths": {name: {"auth": encoded(user)} for name in names}}))

    def run(self, *argv: str) -> CompletedProcess[str]:
        return self._node.run(argv, self._env)


def ctr_pull(cri: CriContainerd, name: str, *flags: str) -> CompletedProcess[str]:
    hosts = ["--hosts-dir", "/etc/containerd/certs.d"]
    return cri.node.run(["ctr", "--namespace", "plain", "images", "pull", *hosts, *flags, name])


def encoded(user: str) -> str:
    return base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def private_podman(base: Path) -> Podman:
    return Podman(base / "pp")


def test_docker_sends_its_docker_hub_login_to_the_mirror(
    private_docker: Docker, world: World, images: dict[str, BuiltImage]
) -> None:
    done = private_docker.pull("secret:1", encoded("alice"))
    assert done.returncode == 0, done.stderr
    assert private_docker.image_id("secret:1") == str(images["team/tool:1"].image.id)
    private_docker.run("rmi", "secret:1")
    for stranger in (None, encoded("bob")):
        assert private_docker.pull("secret:1", stranger).returncode != 0
        done = private_docker.pull("open:1", stranger)
        assert done.returncode == 0, done.stderr
        private_docker.run("rmi", "open:1")
    world.check_that_no_runtime_asked_upstream()


def test_docker_with_the_containerd_image_store_sends_its_login_to_no_mirror(
    image_store: ImageStore, world: World
) -> None:
    config = image_store.containerd.node.base / "home/.docker/config.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": encoded("alice")}}}))
    denied = image_store.run("pull", "secret:1")
    assert denied.returncode != 0
    assert "401 Unauthorized" in denied.stderr
    image_store.succeed("pull", "open:1")
    world.check_that_no_runtime_asked_upstream()


@REGISTRIES
def test_kubelets_image_pull_secrets_reach_the_mirror(cri: CriContainerd, world: World, registry: str) -> None:
    name = f"{registry}/team/app:1"
    with cri.images() as service:
        service.pull(name, Login("alice", PASSWORD))
        world.check_that_no_runtime_asked_upstream()
        service.remove(name)
        for stranger in (None, Login("bob", PASSWORD), Login("alice", "guess")):
            with pytest.raises(SourceError):
                service.pull(name, stranger)


@REGISTRIES
def test_ctr_sends_its_user_to_the_mirror(cri: CriContainerd, world: World, registry: str) -> None:
    done = ctr_pull(cri, f"{registry}/team/app:1", "--user", f"alice:{PASSWORD}")
    assert done.returncode == 0, done.stderr
    world.check_that_no_runtime_asked_upstream()
    assert ctr_pull(cri, f"{registry}/team/app:1").returncode != 0


@REGISTRIES
@pytest.mark.parametrize("is_path", [False, True], ids=["login for the mirror", "login for its path"])
def test_podmans_login_for_the_mirror_reaches_it(
    private_podman: Podman, world: World, registry: str, is_path: bool
) -> None:
    private_podman.log_in(f"{MIRROR}/{KEYS[registry]}" if is_path else MIRROR)
    done = private_podman.run("podman", "pull", f"{registry}/team/app:1")
    assert done.returncode == 0, done.stderr
    world.check_that_no_runtime_asked_upstream()
    private_podman.run("podman", "rmi", "--all", "--force")


@pytest.mark.parametrize("flags", [(), ("--creds", f"alice:{PASSWORD}")], ids=["login", "--creds"])
def test_podmans_login_for_the_registry_alone_does_not_reach_the_mirror(
    private_podman: Podman, world: World, flags: tuple[str, ...]
) -> None:
    private_podman.log_in(*(() if flags else (BASIC,)))
    done = private_podman.run("podman", "pull", *flags, f"{BASIC}/team/app:1")
    assert done.returncode == 0, done.stderr
    assert world.registries[BASIC].runtimes_that_asked() == {"containers/"}  # it went there itself
    private_podman.log_in()
    assert private_podman.run("podman", "pull", f"{TOKEN}/team/app:1").returncode != 0
    private_podman.run("podman", "rmi", "--all", "--force")


@REGISTRIES
def test_skopeos_credentials_reach_a_mirror_that_is_named(
    private_podman: Podman, world: World, registry: str, tmp_path: Path
) -> None:
    private_podman.log_in()
    copy = ["skopeo", "copy", "--src-tls-verify=false"]
    source, target = f"docker://{MIRROR}/{KEYS[registry]}/team/app:1", f"dir:{tmp_path / 'copy'}"
    done = private_podman.run(*copy, "--src-creds", f"alice:{PASSWORD}", source, target)
    assert done.returncode == 0, done.stderr
    world.check_that_no_runtime_asked_upstream()
    assert private_podman.run(*copy, source, target).returncode != 0


def test_service_accounts_images_need_no_login(cri: CriContainerd, private_podman: Podman, world: World) -> None:
    private_podman.log_in()
    for done in (
        ctr_pull(cri, f"{VAULT}/team/app:1"),
        private_podman.run("podman", "pull", f"{VAULT}/team/app:1"),
    ):
        assert done.returncode == 0, done.stderr
    world.check_that_no_runtime_asked_upstream()
    private_podman.run("podman", "rmi", "--all", "--force")


def test_no_process_of_the_site_has_written_credentials_anywhere(world: World) -> None:
    secrets = (PASSWORD.encode(), encoded("alice").encode(), encoded("bob").encode())
    places = [*os.walk(world.base / "n"), *os.walk(world.base / "site")]
    paths = [Path(directory, name) for directory, _, names in places for name in names if name != "password"]
    assert any(path.name == "proxy.log" for path in paths)
    assert [path for path in paths if any(map(content(path).__contains__, secrets))] == []


def content(path: Path) -> bytes:
    """Nothing of what is no file, or has gone meanwhile: whose files they are, they are at work."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:
        return b""
