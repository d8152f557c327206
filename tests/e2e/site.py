"""One site and its agents, as their own processes with configuration files as a user would write them."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from subprocess import CompletedProcess

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e import processes
from tests.e2e.processes import Process, answers, succeed
from tests.e2e.upstream import NAME
from tests.support.ports import free_port

_PROXY = """\
[proxy]
workers = 2
listen = "127.0.0.1:{proxy_port}"
site_blobs = "{base}/blobs"
default_upstream = "docker.io"
site_seeders = ["http://127.0.0.1:{seeder_port}"]
"""
_UPSTREAMS = """\
[upstreams."docker.io"]
url = "{upstream}"
[upstreams.local]
url = "{upstream}"
hosts = ["{name}", "registry.k8s.io"]
[upstreams.canary]
url = "http://127.0.0.1:5055"
hosts = ["127.0.0.1:5055"]
"""
_SEEDER = """\
[seeder]
site = "e2e"
listen = "127.0.0.1:{seeder_port}"
bittorrent = "127.0.0.1:{peer_port}"
site_blobs = "{base}/blobs"
site_proxies = ["http://127.0.0.1:{proxy_port}"]
database = "sqlite:///{base}/seeder.db"
"""
_OTHERS = 32
"""Each connects anew, so both workers hear some of them."""
_AGENT = """\
[agent]
listen = "{listen}"
bittorrent = "{bittorrent}"
socket = "{base}/agent.sock"
site_proxies = ["{proxy}"]
site_seeders = ["{seeder}"]
node_blobs = "{base}/blobs"
node_blobs_quota = "2GiB"
[storage]
root = "{base}/storage"
used_by = []
[unpack]
ramdisk = "{base}/ramdisk"
ramdisk_budget = "512MiB"
[snapshotter]
socket = "{base}/snapshotter.sock"
patience = "30s"
"""

SWARM = ("peer", "seeder")
"""Sources of ``imagedist_received_bytes_total`` that are BitTorrent."""


class Service:
    """A process of ours that can be stopped and started again."""

    def __init__(self, argv: list[str], log: Path, url: str, env: Mapping[str, str] | None = None) -> None:
        self._env = env
        self._argv = [sys.executable, "-m", *argv]
        self._log = log
        self.url = url
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def launch(self) -> None:
        """Starts it without waiting. In the thread that lives as long as it is to: it dies with that."""
        if self._process is None:
            self._process = Process(self._argv, self._log, self._env)

    def start(self) -> None:
        was_there = self._process is not None
        self.launch()
        if not was_there:
            self._wait_ready()

    def _wait_ready(self) -> None:
        if self._process is not None:
            try:
                self._process.wait_until(lambda: answers(f"{self.url}/readyz"), f"{self.url}/readyz")
            except AssertionError:
                self.stop()
                raise

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
        self.stop()


class Site:
    """A proxy and a seeder over one blob store.

    Args:
        upstreams: their tables; the real registry under two names if not given.
        seeder: further tables of the seeder's file.
    """

    def __init__(self, base: Path, upstream_url: str, upstreams: str = _UPSTREAMS, seeder: str = "") -> None:
        base.mkdir(parents=True)
        ports = {"proxy_port": free_port(), "seeder_port": free_port(), "peer_port": free_port()}
        values = {"base": base, "upstream": upstream_url, "name": NAME, **ports}
        for name, template in (("proxy", _PROXY + upstreams), ("seeder", _SEEDER + seeder)):
            (base / f"{name}.toml").write_text(template.format(**values))
        self.proxy = Service(
            ["registry_proxy", "--config", str(base / "proxy.toml")],
            base / "proxy.log",
            f"http://127.0.0.1:{ports['proxy_port']}",
        )
        self.seeder = Service(
            ["seeder", "--config", str(base / "seeder.toml")],
            base / "seeder.log",
            f"http://127.0.0.1:{ports['seeder_port']}",
        )

    def start(self) -> None:
        self.proxy.start()
        self.seeder.start()

    def stop(self) -> None:
        self.seeder.stop()
        self.proxy.stop()

    def others_want(self, repository: str, digests: Iterable[object]) -> None:
        """So many other nodes ask for these blobs that the next one is among the first at no worker of the proxy."""
        for digest in digests:
            url = f"{self.proxy.url}/site/v1/torrents/{digest}?ns={NAME}&repo={repository}"
            for number in range(_OTHERS):
                request = urllib.request.Request(url, headers={"X-Imagedist-Node": f"other-{number}"})
                with urllib.request.urlopen(request, timeout=30) as answer:
                    assert answer.status == 200, answer.status


class Agent(Service):
    """One node's agent, and the command line that finds it by its socket.

    Args:
        listen: the mirror's ``host:port``. bittorrent: an address of its own on this machine.
        more: lines of its table. env: of its process, and of the runtimes' programs that it starts.
    """

    def __init__(
        self, base: Path, listen: str, bittorrent: str, site: Site, more: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        (base / "ramdisk").mkdir(parents=True)
        config = base / "agent.toml"
        values = {"base": base, "listen": listen, "bittorrent": bittorrent}
        text = _AGENT.format(proxy=site.proxy.url, seeder=site.seeder.url, **values)
        config.write_text(text.replace("[storage]", f"{more}\n[storage]"))
        command = ["imagedist", "agent", "--config", str(config)]
        super().__init__(command, base / "agent.log", f"http://{listen}", env)
        self.storage = base / "storage"
        self.config = config
        self.snapshotter_socket = base / "snapshotter.sock"
        self._socket = base / "agent.sock"

    def start(self) -> None:
        """Returns when the mirror answers and the socket is there."""
        self.launch()
        self._wait_ready()
        assert self._process is not None
        self._process.wait_until(self._socket.exists, str(self._socket))

    def imagedist(self, *arguments: str, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
        """Runs ``imagedist`` on this node; it must succeed."""
        return self._with(succeed, arguments, env)

    def try_imagedist(self, *arguments: str) -> CompletedProcess[str]:
        """Runs ``imagedist`` on this node, whatever comes of it."""
        return self._with(processes.run, arguments, None)

    def _with(
        self,
        run: Callable[..., CompletedProcess[str]],
        arguments: tuple[str, ...],
        env: Mapping[str, str] | None,
    ) -> CompletedProcess[str]:
        return run(
            [sys.executable, "-m", "imagedist", *arguments], {"IMAGEDIST_SOCKET": str(self._socket), **(env or {})}
        )

    def received_bytes(self) -> dict[str, int]:
        """Bytes of blobs by source, from ``/metrics``; sources that gave none are not in it."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return {
            sample.labels["source"]: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "imagedist_received_bytes_total" and sample.value
        }

    def wait_seeding(self, digests: Iterable[object]) -> None:
        """Returns when this node gives these blobs to others."""
        wanted = {str(digest) for digest in digests}

        def is_seeding() -> bool:
            rows = json.loads(self.imagedist("swarm", "--json").stdout)["transfers"]
            return wanted <= {_digest(row["digest"]) for row in rows if row["is_complete"]}

        assert self._process is not None
        self._process.wait_until(is_seeding, f"{len(wanted)} seeds")

    def layer_directories(self) -> list[Path]:
        """The unpacked layers of this node's store."""
        return [path for path in (self.storage / "overlay").iterdir() if path.name != "l"]

    def image_names(self) -> list[str]:
        """The names of all images in this node's store."""
        listed = json.loads(self.imagedist("images", "--root", str(self.storage), "--json").stdout)
        return [name for image in listed for name in image["names"]]


def _digest(told: dict[str, str] | str) -> str:
    return told if isinstance(told, str) else f"{told['algorithm']}:{told['hex']}"


def swarm_bytes(after: Mapping[str, int], before: Mapping[str, int]) -> int:
    """Bytes that came over BitTorrent between two readings."""
    return sum(after.get(source, 0) - before.get(source, 0) for source in SWARM)
