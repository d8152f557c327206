"""imagedist with its agent: a site of one proxy, one seeder and this node, between the registry and the store."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.account import Account, ProcessAccount, cgroup_account
from bench.contestant import PROGRAM, Ready, own_version, stages
from bench.directories import short_directory
from bench.processes import daemon
from bench.registry import answers

_PROXY = """\
[proxy]
listen = "{proxy}"
site_blobs = "{site}/blobs"
site_seeders = ["http://{seeder}"]
[upstreams.registry]
url = "http://{registry}"
hosts = ["{registry}"]
"""
_SEEDER = """\
[seeder]
site = "bench"
listen = "{seeder}"
bittorrent = "{peer}"
site_blobs = "{site}/blobs"
site_proxies = ["http://{proxy}"]
database = "sqlite:///{site}/seeder.db"
"""
_AGENT = """\
[agent]
listen = "{mirror}"
bittorrent = "127.0.0.2:{agent_port}"
socket = "{site}/agent.sock"
site_proxies = ["http://{proxy}"]
site_seeders = ["http://{seeder}"]
node_blobs = "{store}/blobs"
[storage]
root = "{store}/storage"
used_by = []
[unpack]
ramdisk = "{site}/ramdisk"
[snapshotter]
socket = "{site}/snapshotter.sock"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A site that runs, with one node.

    Attributes:
        directory: short; for sockets and configurations.
        mirror: URL of the agent's.
        account: of proxy and seeder.
    """

    directory: Path
    mirror: str
    agent_config: Path
    snapshotter_socket: Path
    ramdisk: Path
    environment: Mapping[str, str]
    account: Account


@contextmanager
def site(store: Path, account: Account, registry: str) -> Iterator[Site]:
    """One proxy, one seeder, one agent. The agent is accounted; the others are not the node's: apart.

    Raises:
        ImagedistError: one of them did not start.
    """
    with short_directory() as directory, ExitStack() as stack:
        of_site: Account = stack.enter_context(cgroup_account()) or ProcessAccount()
        (directory / "ramdisk").mkdir()
        ports = {name: _free_port() for name in ("proxy", "seeder", "peer", "mirror")}
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        values = {**addresses, "site": directory, "store": store, "registry": registry, "agent_port": _free_port()}
        services = (
            ("proxy", _PROXY, ["-m", "registry_proxy"], "proxy", of_site),
            ("seeder", _SEEDER, ["-m", "seeder"], "seeder", of_site),
            ("agent", _AGENT, ["-m", "imagedist", "agent"], "mirror", account),
        )
        for name, template, program, address, paid_by in services:
            config = directory / f"{name}.toml"
            config.write_text(template.format(**values))
            url = f"http://{addresses[address]}/readyz"
            command = [sys.executable, *program, "--config", str(config)]
            process = stack.enter_context(daemon(command, directory / f"{name}.log", partial(answers, url), paid_by))
            if isinstance(paid_by, ProcessAccount):
                paid_by.roots.add(process)
        yield Site(
            directory,
            f"http://{addresses['mirror']}",
            directory / "agent.toml",
            directory / "snapshotter.sock",
            directory / "ramdisk",
            {"IMAGEDIST_SOCKET": str(directory / "agent.sock")},
            of_site,
        )


@dataclass(frozen=True, slots=True)
class Agent:
    """``imagedist pull`` beside a running agent: agent and client are accounted, the site is not the node's."""

    name: str
    is_ours: bool = True

    def cannot(self) -> str | None:
        return None

    def version(self) -> str:
        return own_version()

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with site(store, account, registry) as here:
            yield Ready(pull, environment=here.environment, ramdisk=here.ramdisk, site=here.account, figures_of=stages)


def pull(reference: str) -> list[str]:
    """``imagedist pull`` by the agent."""
    return [*PROGRAM, "pull", reference, "--json"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
