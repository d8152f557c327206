"""A docker-registry, a site before it and a node of the site, as processes of their own: what the cases ask."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.asking import Server
from tests.conformance.content import Content, push_all
from tests.e2e.processes import Process, answers
from tests.support.ports import free_port

_REGISTRY = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {base}/registry}}}}
http: {{addr: "{registry}"}}
validation: {{manifests: {{urls: {{allow: ["^https://"]}}}}}}
"""
_PROXY = """\
[proxy]
listen = "{proxy}"
site_blobs = "{base}/site"
site_seeders = ["http://{seeder}"]
[upstreams.up]
url = "http://{registry}"
hosts = ["registry.example:5000"]
tag_ttl = "1h"
[upstreams.gone]
url = "http://127.0.0.1:1"
"""
_SEEDER = """\
[seeder]
site = "conformance"
listen = "{seeder}"
bittorrent = "{peer}"
site_blobs = "{base}/site"
site_proxies = ["http://{proxy}"]
database = "sqlite:///{base}/seeder.db"
"""
_AGENT = """\
[agent]
listen = "{agent}"
bittorrent = "{node}"
socket = "{base}/agent.sock"
site_proxies = ["http://{proxy}"]
site_seeders = ["http://{seeder}"]
node_blobs = "{base}/node"
[storage]
root = "{base}/storage"
used_by = []
[unpack]
ramdisk = "{base}/ramdisk"
ramdisk_budget = "64MiB"
"""


class Site:
    """Addresses of what runs; ``log`` has what proxy, seeder and agent said."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.base = base
        parts = ("registry", "proxy", "seeder", "agent", "peer", "node")
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in parts}
        self.logs = {name: base / f"{name}.log" for name in ("proxy", "seeder", "agent")}
        values = {**self.addresses, "base": base}
        (base / "registry.yml").write_text(_REGISTRY.format(**values))
        programs = {
            "proxy": (_PROXY, ["-m", "registry_proxy"]),
            "seeder": (_SEEDER, ["-m", "seeder"]),
            "agent": (_AGENT, ["-m", "imagedist", "agent"]),
        }
        started = {"registry": Process(["docker-registry", "serve", str(base / "registry.yml")], base / "registry.log")}
        for name, (template, arguments) in programs.items():
            config = base / f"{name}.toml"
            config.write_text(template.format(**values))
            started[name] = Process([sys.executable, *arguments, "--config", str(config)], self.logs[name])
        for process in started.values():
            stack.callback(process.stop)
        for name, process in started.items():
            path = "/v2/" if name == "registry" else "/livez"
            process.wait_until(partial(answers, f"http://{self.addresses[name]}{path}"), name)

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.logs.values())


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("conformance"), stack)


@pytest.fixture(scope="session")
def content(site: Site) -> Content:
    return push_all(f"http://{site.addresses['registry']}")


@pytest.fixture(params=["proxy", "agent"])
def server(request: pytest.FixtureRequest, site: Site, content: Content) -> Server:
    return Server(site.addresses[request.param])
