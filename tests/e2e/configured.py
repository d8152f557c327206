"""A node with files of its own in /etc, on which commands run as an operator types them."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.releases import PEERS, V1_6, Release
from tests.e2e.site import Agent

_PODMAN = """\
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=10000:10000", "nproc=1000:1000"]
[engine]
lock_type = "file"
runtime = "crun"
"""
"""What this kind of test machine allows; see facts on crun and hybrid cgroups."""


class ConfiguredNode:
    """A node with files of its own in /etc, on which commands run as an operator types them.

    Args:
        release: whose containerd and Docker it has.
        has_built: whether it has what ``deploy/peers.sh`` built, too.

    Attributes:
        node: where its daemons are started.
    """

    def __init__(self, base: Path, agent: Agent, release: Release = V1_6, has_built: bool = False) -> None:
        self.release = release
        self.node = Node(base, HOSTS, usr=release.usr)
        if has_built:
            self.node.env["PATH"] += f":{PEERS}"
        self._agent = agent
        self.etc = self.node.etc
        for name in ("containerd", "containers", "docker"):
            shutil.copytree(f"/etc/{name}", self.etc / name, symlinks=True)
        self._settings = base / "containers.conf"
        self._settings.write_text(_PODMAN)

    def runtimes(self, *arguments: str, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
        options = ["--config", str(self._agent.config), "--socket", str(self._agent.config.with_name("agent.sock"))]
        command = [sys.executable, "-m", "imagedist", "runtimes", *arguments, *options, "--json"]
        return self.node.run(command, {"CONTAINERS_CONF": str(self._settings), **(env or {})})

    def told(self, *arguments: str) -> Any:
        done = self.runtimes(*arguments)
        if done.returncode:
            logs = (self._agent.config.with_name(name) for name in ("agent.log", "snapshotter.log"))
            tails = [log.read_text(errors="replace")[-3000:] for log in logs if log.exists()]
            raise AssertionError("\n".join([done.stdout, done.stderr, *tails]))
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def running(self, *with_docker: str) -> Iterator[None]:
        """Its containerd, with whatever /etc says now; with ``dockerd`` that beside it."""
        with contextlib.ExitStack() as stack:
            daemon = self.node.start(["containerd"], "containerd")
            stack.callback(daemon.stop)
            daemon.wait_until(lambda: self.node.run(["ctr", "version"]).returncode == 0, "containerd")
            for name in with_docker:
                flags = ["--iptables=false", "--bridge=none", "--containerd=/run/containerd/containerd.sock"]
                docker = self.node.start_beside(daemon, [name, *flags], name)
                stack.callback(docker.stop)
                docker.wait_until(lambda: self.node.run(["docker", "version"]).returncode == 0, name)
            yield
