"""One registry, one site and some nodes, each in its own process, directory and loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from imagedist.errors import ImagedistError, SourceError

MARK = "IMAGEDIST_DEMO"
"""Every process of a demo carries it in its environment: that is how what is left behind is counted."""

REGISTRY = "registry.demo"
"""The name of the upstream registry; it exists in the site's configuration only."""

_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Node:
    mirror: str
    socket: Path
    store: Path


class Cluster:
    """Use as an async context manager: everything is ready inside, and gone afterwards.

    Args:
        directory: emptied by the caller; holds configurations, logs, stores.
        layout: the image the registry serves. name: what it is called there.
        rate: what the registry, the proxy, the seeder and each node send or receive at most.
    """

    def __init__(self, directory: Path, layout: Path, name: str, nodes: int, rate: str, first_wave: int = 1) -> None:
        self._directory = directory
        self._layout = layout
        self._name = name
        self._rate = rate
        self._first_wave = first_wave
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        registry_port, proxy_port, seeder_port, seed_port, *rest = _free_ports(4 + 2 * nodes)
        self.registry = f"http://127.0.0.1:{registry_port}"
        self.proxy = f"http://127.0.0.1:{proxy_port}"
        self._seeder = f"http://127.0.0.1:{seeder_port}"
        self._seed_port = seed_port
        self._node_ports = list(zip(rest[::2], rest[1::2], strict=True))
        self.nodes = [
            Node(f"127.0.0.1:{port}", directory / f"n{index}" / "agent.sock", directory / f"n{index}" / "storage")
            for index, (port, _) in enumerate(self._node_ports)
        ]

    async def __aenter__(self) -> Cluster:
        try:
            self._configure()
            for name, module, *arguments in self._commands():
                await self._start(name, module, *arguments)
            urls = [f"{self.registry}/v2/", f"{self.proxy}/readyz", f"{self._seeder}/readyz"]
            urls += [f"http://{node.mirror}/readyz" for node in self.nodes]
            async with httpx.AsyncClient(trust_env=False) as http, asyncio.TaskGroup() as group:
                for name, url in zip(self._processes, urls, strict=True):
                    group.create_task(self._ready(http, name, url))
        except BaseException as error:
            await self._stop_all()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stop_all()

    def _configure(self) -> None:
        proxy, seeder = self.proxy.removeprefix("http://"), self._seeder.removeprefix("http://")
        site = self._directory / "site"
        self._write(
            "proxy",
            f"""
            [proxy]
            listen = "{proxy}"
            site_blobs = "{site}"
            site_seeders = ["{self._seeder}"]
            egress = "{self._rate}"
            first_wave_nodes = {self._first_wave}
            [upstreams."{REGISTRY}"]
            url = "{self.registry}"
            """,
        )
        self._write(
            "seeder",
            f"""
            [seeder]
            site = "demo"
            listen = "{seeder}"
            bittorrent = "127.0.0.10:{self._seed_port}"
            site_blobs = "{site}"
            site_proxies = ["{self.proxy}"]
            database = "sqlite:///{self._directory / "seeder.db"}"
            upload = "{self._rate}"
            """,
        )
        for index, (node, (_, peer_port)) in enumerate(zip(self.nodes, self._node_ports, strict=True)):
            self._write(
                f"agent{index}",
                f"""
                [agent]
                listen = "{node.mirror}"
                bittorrent = "127.0.0.{11 + index}:{peer_port}"
                socket = "{node.socket}"
                site_proxies = ["{self.proxy}"]
                site_seeders = ["{self._seeder}"]
                node_blobs = "{self._directory}/n{index}/blobs"
                [storage]
                root = "{node.store}"
                durability = "none"
                [unpack]
                ramdisk = "{ramdisk()}"
                [limits]
                upload = "{self._rate}"
                download = "{self._rate}"
                """,
            )

    def _commands(self) -> list[tuple[str, ...]]:
        listen = self.registry.removeprefix("http://")
        registry = ("imagedist.demo.registry", "--layout", str(self._layout), "--listen", listen)
        commands: list[tuple[str, ...]] = [
            ("registry", *registry, "--rate", self._rate, "--name", self._name),
            ("proxy", "registry_proxy", "--config", str(self._file("proxy"))),
            ("seeder", "seeder", "--config", str(self._file("seeder"))),
        ]
        for index in range(len(self.nodes)):
            config = str(self._file(f"agent{index}"))
            commands.append((f"agent{index}", "imagedist", "agent", "--config", config))
        return commands

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.toml"

    def _write(self, name: str, text: str) -> None:
        lines = (line.strip() for line in text.strip().splitlines())
        self._file(name).write_text("\n".join(lines) + "\n")

    async def _start(self, name: str, module: str, *arguments: str) -> None:
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "imagedist.demo.child",
                module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo: it stops its children in order
                env={**os.environ, MARK: str(os.getpid())},
            )

    async def _ready(self, http: httpx.AsyncClient, name: str, url: str) -> None:
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if self._processes[name].returncode is not None:
                raise SourceError(f"the demo's {name} stopped: {self._last_words(name)}")
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(url)).status_code == 200:
                    return
            await asyncio.sleep(_POLL_SECONDS)
        raise SourceError(f"the demo's {name} was not ready within {_READY_SECONDS:.0f} s: {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        log = self._directory / f"{name}.log"
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    async def stats(self) -> dict[str, Any]:
        """What the registry has sent so far."""
        async with httpx.AsyncClient(trust_env=False) as http:
            answer: dict[str, Any] = json.loads((await http.get(f"{self.registry}/stats")).content)
        return answer

    async def kill(self, name: str) -> None:
        """SIGKILL, as a crash would."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _stop_all(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._processes.clear()


def ramdisk() -> Path:
    from imagedist.engine import default_ramdisk

    return default_ramdisk()


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


def left_behind(directory: Path) -> tuple[int, int]:
    """Processes of this demo that still run, and mounts below its directory."""
    mark = f"{MARK}={os.getpid()}".encode()
    processes = 0
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            processes += mark in environment.read_bytes().split(b"\0")
    mounts = sum(str(directory) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return processes, mounts


def check(condition: bool, message: str) -> None:
    """Raises ImagedistError: the demo found the product wanting."""
    if not condition:
        raise ImagedistError(f"the demo failed: {message}")
