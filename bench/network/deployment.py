"""imagedist on a test network: a registry, a site's proxy and seeder, and agents, each on a node of its own.

Every node has a loopback interface of its own, so agents listen where users' agents do.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from bench.network.node import Node
from imagedist.config import AgentConfig, ProxyConfig, SeederConfig, parse
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
site_seeders = {seeders}
site_token_file = "{token_file}"
{settings}
[upstreams.registry]
url = "http://{registry}"
hosts = ["{registry}"]
"""
_SEEDER = """\
[seeder]
site = "{site}"
listen = "{address}:{port}"
bittorrent = "{address}:6881"
site_blobs = "{directory}/site"
site_proxies = ["http://{proxy}:{proxy_port}"]
database = "sqlite:///{directory}/{name}.db"
site_token_file = "{token_file}"
{settings}
"""
_AGENT = """\
[agent]
listen = "127.0.0.1:5050"
bittorrent = "{address}:6882"
socket = "{directory}/agent.sock"
site_proxies = ["http://{site}:{proxy_port}"]
site_seeders = {seeders}
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


_CONFIGURATIONS: dict[str, tuple[str, type[BaseModel]]] = {
    "proxy": (_PROXY, ProxyConfig),
    "seeder": (_SEEDER, SeederConfig),
    "agent": (_AGENT, AgentConfig),
}


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
class Service:
    """A program of a site that runs."""

    node: Node
    process: int
    config: Path


@dataclass(frozen=True, slots=True)
class Site:
    """A site's proxy and seeders that run, the first seeder on the proxy's node."""

    proxy: Service
    seeders: tuple[Service, ...]
    token_file: Path

    @property
    def node(self) -> Node:
        return self.proxy.node

    @property
    def proxy_process(self) -> int:
        return self.proxy.process

    @property
    def seeder_process(self) -> int:
        return self.seeders[0].process

    @property
    def proxy_url(self) -> str:
        return f"http://{self.node.address}:{_PROXY_PORT}"

    @property
    def seeder_urls(self) -> list[str]:
        return [_seeder_url(seeder.node) for seeder in self.seeders]


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
def site(
    node: Node,
    directory: Path,
    upstream: Registry,
    proxy: str = "",
    seeder: str = "",
    more_seeders: Sequence[Node] = (),
) -> Iterator[Site]:
    """A site's proxy and seeder on one node; all its seeders read the proxy's store.

    Args:
        proxy, seeder: more lines of their configurations' first tables.
        more_seeders: nodes with a seeder each.

    Raises:
        ImagedistError: one did not start.
    """
    token_file = _written(directory / "site.token", "{secret}\n", secret=secrets.token_hex())
    places = {"directory": directory, "token_file": token_file, "registry": upstream.address, "proxy": node.address}
    nodes = [node, *more_seeders]
    urls = _toml([_seeder_url(each) for each in nodes])
    first = _written(
        directory / "proxy.toml", _PROXY, **places, address=node.address, port=_PROXY_PORT, seeders=urls, settings=proxy
    )
    with ExitStack() as stack:
        proxy_process = stack.enter_context(proxy_of(node, first))
        seeders = []
        for number, each in enumerate(nodes):
            values = {"address": each.address, "port": _SEEDER_PORT, "proxy_port": _PROXY_PORT}
            name = f"seeder{number}"
            config = _written(
                directory / f"{name}.toml", _SEEDER, **places, **values, name=name, site=node.name, settings=seeder
            )
            seeders.append(Service(each, stack.enter_context(seeder_of(each, config)), config))
        yield Site(Service(node, proxy_process, first), tuple(seeders), token_file)


@contextmanager
def proxy_of(node: Node, config: Path) -> Iterator[int]:
    """A proxy as its file says; the process. Raises ImagedistError: it did not start."""
    url = f"http://{node.address}:{_PROXY_PORT}/readyz"
    with node.daemon(_python("registry_proxy", config), config.with_suffix(".log"), url) as process:
        yield process


@contextmanager
def seeder_of(node: Node, config: Path) -> Iterator[int]:
    """A seeder as its file says; the process. Raises ImagedistError: it did not start."""
    url = f"{_seeder_url(node)}/readyz"
    with node.daemon(_python("seeder", config), config.with_suffix(".log"), url) as process:
        yield process


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
    more = {"proxy_port": _PROXY_PORT, "seeders": _toml(site.seeder_urls)}
    config = _written(directory / "agent.toml", _AGENT, **values, **places, **more)
    command = _python("imagedist", config, "agent")
    with node.daemon(command, directory / "agent.log", f"{MIRROR}/readyz") as process:
        yield Agent(node, process, directory)


def _seeder_url(node: Node) -> str:
    return f"http://{node.address}:{_SEEDER_PORT}"


def _toml(urls: Sequence[str]) -> str:
    return json.dumps(list(urls))


def check_settings(program: str, settings: str) -> None:
    """Whether lines fit into the first table of a program's configuration.

    Raises:
        ConfigError: they do not; names the option and the key.
    """
    template, model = _CONFIGURATIONS[program]
    text = template.format(
        **dict.fromkeys(("address", "proxy", "site", "name"), "127.0.0.1"),
        **dict.fromkeys(("port", "proxy_port", "quota_bytes"), 1),
        **dict.fromkeys(("directory", "token_file"), "/"),
        registry="127.0.0.1:1",
        seeders=_toml(["http://127.0.0.1:1"]),
        settings=settings,
    )
    parse(text, model, f"--{program} {settings!r}")


def _written(path: Path, template: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template.format(**values))
    return path


def _python(module: str, config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments, "--config", str(config)]
