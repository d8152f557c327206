"""imagedist on a test network: a registry, a site's proxy and seeder, and agents, each on a node of its own.

Every node has a loopback interface of its own, so agents listen where users' agents do.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.network.node import Node
from imagedist.demo.layout import BuiltImage

_REGISTRY_PORT, _PROXY_PORT, _SEEDER_PORT = 5000, 5001, 5002
LOCAL_REGISTRY = f"http://127.0.0.1:{_REGISTRY_PORT}"
"""On its own node."""
MIRROR = "http://127.0.0.1:5050"
"""An agent's, on its own node."""
_REGISTRY = """\
version: 0.1
log:
  level: warn
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {directory}/registry
http:
  addr: 0.0.0.0:{port}
"""
_PROXY = """\
[proxy]
listen = "{address}:{port}"
site_blobs = "{directory}/site"
site_seeders = ["http://{address}:{seeder_port}"]
site_token_file = "{token_file}"
{settings}
[upstreams.registry]
url = "http://{registry}"
hosts = ["{registry}"]
"""
_SEEDER = """\
[seeder]
site = "{name}"
listen = "{address}:{port}"
bittorrent = "{address}:6881"
site_blobs = "{directory}/site"
site_proxies = ["http://{address}:{proxy_port}"]
database = "sqlite:///{directory}/seeder.db"
site_token_file = "{token_file}"
{settings}
"""
_AGENT = """\
[agent]
listen = "127.0.0.1:5050"
bittorrent = "{address}:6882"
socket = "{directory}/agent.sock"
site_proxies = ["http://{site}:{proxy_port}"]
site_seeders = ["http://{site}:{seeder_port}"]
node_blobs = "{directory}/blobs"
node_blobs_quota = {quota_bytes}
site_token_file = "{token_file}"
{settings}
[storage]
root = "{directory}/storage"
used_by = []
[unpack]
ramdisk = "{directory}/ramdisk"
ramdisk_budget = "256MiB"
"""


@dataclass(frozen=True, slots=True)
class Registry:
    """A docker-registry that runs."""

    node: Node
    log: Path

    @property
    def address(self) -> str:
        """``host:port``, by which references name it."""
        return f"{self.node.address}:{_REGISTRY_PORT}"

    def add(self, built: BuiltImage, name: str) -> str:
        """Pushes an image as it is and returns its reference. Raises ImagedistError: skopeo failed.

        Args:
            name: ``repository:tag``.
        """
        source, target = f"oci:{built.layout}", f"docker://127.0.0.1:{_REGISTRY_PORT}/{name}"
        flags = ["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        self.node.run(["skopeo", *flags, source, target])
        return f"{self.address}/{name}"


@dataclass(frozen=True, slots=True)
class Site:
    """A site's proxy and seeder that run on one node."""

    node: Node
    proxy_process: int
    seeder_process: int
    token_file: Path

    @property
    def proxy_url(self) -> str:
        return f"http://{self.node.address}:{_PROXY_PORT}"


@dataclass(frozen=True, slots=True)
class Agent:
    """A node's agent that runs, and the command line beside it."""

    node: Node
    process: int
    directory: Path

    @property
    def storage(self) -> Path:
        return self.directory / "storage"

    def imagedist(self, *arguments: str) -> str:
        """What ``imagedist`` prints on this node. Raises ImagedistError: it failed."""
        return self.node.run(self.command(*arguments), {"IMAGEDIST_SOCKET": str(self.directory / "agent.sock")})

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "imagedist", *arguments]

    def metrics(self) -> str:
        return self.node.get(f"{MIRROR}/metrics").decode()


@contextmanager
def registry(node: Node, directory: Path) -> Iterator[Registry]:
    """A docker-registry on a node. Raises ImagedistError: it did not start."""
    config = _written(directory / "config.yml", _REGISTRY, directory=directory, port=_REGISTRY_PORT)
    log = directory / "registry.log"
    url = f"http://127.0.0.1:{_REGISTRY_PORT}/v2/"
    with node.daemon(["docker-registry", "serve", str(config)], log, url):
        yield Registry(node, log)


@contextmanager
def site(node: Node, directory: Path, upstream: Registry, proxy: str = "", seeder: str = "") -> Iterator[Site]:
    """A site's proxy and seeder on one node.

    Args:
        proxy, seeder: more lines of their configurations' first tables.

    Raises:
        ImagedistError: one did not start.
    """
    token_file = _written(directory / "site.token", "{secret}\n", secret=secrets.token_hex())
    places = {"directory": directory, "token_file": token_file}
    values = {"address": node.address, "name": node.name, "registry": upstream.address, **places}
    ports = {"proxy_port": _PROXY_PORT, "seeder_port": _SEEDER_PORT}
    first = _written(directory / "proxy.toml", _PROXY, **values, **ports, port=_PROXY_PORT, settings=proxy)
    second = _written(directory / "seeder.toml", _SEEDER, **values, **ports, port=_SEEDER_PORT, settings=seeder)
    urls = [f"http://{node.address}:{port}/readyz" for port in (_PROXY_PORT, _SEEDER_PORT)]
    with (
        node.daemon(_python("registry_proxy", first), directory / "proxy.log", urls[0]) as proxy_process,
        node.daemon(_python("seeder", second), directory / "seeder.log", urls[1]) as seeder_process,
    ):
        yield Site(node, proxy_process, seeder_process, token_file)


@contextmanager
def agent(node: Node, directory: Path, site: Site, settings: str = "", quota_bytes: int = 2 << 30) -> Iterator[Agent]:
    """An agent on a node, its store and cache in ``directory``.

    Args:
        settings: more lines of its configuration's first table.
        quota_bytes: of its cache.

    Raises:
        ImagedistError: it did not start.
    """
    places = {"directory": directory, "token_file": site.token_file}
    values = {"address": node.address, "site": site.node.address, "settings": settings, "quota_bytes": quota_bytes}
    ports = {"proxy_port": _PROXY_PORT, "seeder_port": _SEEDER_PORT}
    config = _written(directory / "agent.toml", _AGENT, **values, **places, **ports)
    command = _python("imagedist", config, "agent")
    with node.daemon(command, directory / "agent.log", f"{MIRROR}/readyz") as process:
        yield Agent(node, process, directory)


def _written(path: Path, template: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template.format(**values))
    return path


def _python(module: str, config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments, "--config", str(config)]
