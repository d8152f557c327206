"""A CRI-O of ``deploy/peers.sh``, configured by `imagedist runtimes` and spoken to as kubelet does."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from subprocess import CompletedProcess

from bench.cri.client import ImageService
from imagedist.errors import SourceError
from tests.e2e.configured import ConfiguredNode
from tests.e2e.processes import Process
from tests.e2e.releases import PEERS
from tests.e2e.site import Agent
from tests.e2e.upstream import NAME
from tests.runtimes.trees import snapshot
from tests.support.children import children
from tests.support.cri.client import Runtime
from tests.support.waiting import wait_until

PAUSE = f"{NAME}/team/base:1"
"""What holds a pod: CRI-O pulls it itself."""

_CONFIG = f"""\
[crio]
log_dir = "/run/crio/logs"
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "{PEERS}/pinns"
irqbalance_config_restore_file = "disable"
[crio.runtime.runtimes.runc]
runtime_path = "/usr/sbin/runc"
monitor_path = "/usr/bin/conmon"
[crio.image]
pause_image = "{PAUSE}"
[crio.network]
network_dir = "/run/cni"
plugin_dirs = ["/run/cni"]
"""
"""Where Debian keeps the programs, and what a test machine allows: what concerns images is in containers-*.conf."""
_PLAIN_HTTP = f"""
[[registry]]
prefix = "{NAME}"
location = "{NAME}"
insecure = true
"""
"""The operator's own table: the registry speaks no TLS."""


class Crio:
    """One node's CRI-O, which `imagedist runtimes --apply` has pointed at an agent's mirror and image store.

    Attributes:
        configured: the node. before: its ``/etc/containers`` before that.
        store: CRI-O's own images and containers. log: what it said.
    """

    def __init__(self, base: Path, agent: Agent) -> None:
        self.configured = ConfiguredNode(base, agent, has_built=True)
        (self.configured.etc / "crio").mkdir()
        (self.configured.etc / "crio/crio.conf").write_text(_CONFIG)
        with (self.configured.etc / "containers/registries.conf").open("a") as file:
            file.write(_PLAIN_HTTP)
        (base / "run/cni").mkdir()
        self._logs = base / "logs"
        self._logs.mkdir()
        self.before = snapshot(self.configured.etc / "containers")
        self.configured.told("crio", "--apply", "--registry", NAME)
        self.store = base / "lib/containers/storage"
        self.log = base / "crio.log"
        self._socket = base / "run/crio/crio.sock"
        self._crio: Process | None = None
        # Whose mounts are the node's: they outlive a CRI-O, as containers do.
        self._machine = self.configured.node.start(["sleep", "infinity"], "machine")

    def start(self) -> None:
        if self._crio is None:
            self._crio = self.configured.node.start_beside(self._machine, ["crio"], "crio")
            self._crio.wait_until(self._answers, "crio")

    def _answers(self) -> bool:
        with self.images() as service:
            try:
                service.ids()
            except SourceError:
                return False
        return True

    def kill(self) -> None:
        """SIGKILL: it finds no mark of a clean end when it starts again."""
        assert self._crio is not None
        os.kill(self._crio.pid, signal.SIGKILL)
        self._crio.stop()
        self._crio = None

    def close(self) -> None:
        for process in (self._crio, self._machine):
            if process is not None:
                process.stop()
        for monitor in self._monitors():
            for container in children(monitor):
                os.kill(container, signal.SIGKILL)
        wait_until(lambda: not self._monitors(), "no container of this CRI-O")

    def _monitors(self) -> list[int]:
        """One of each container, also of those that a test left and CRI-O has forgotten."""
        found = []
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                command = Path("/proc", process, "cmdline").read_bytes()
                if b"conmon\0" in command and str(self._logs).encode() in command:
                    found.append(int(process))
        return found

    def images(self) -> ImageService:
        return ImageService(self._socket)

    def pods(self) -> Runtime:
        return Runtime(self._socket, self._logs)

    def check(self) -> CompletedProcess[str]:
        """CRI-O's own look at its store and those that it reads: documents, tar-splits, every file of every layer."""
        return self.configured.node.run(["crio", "--log-level", "debug", "check"])

    def own_layers(self) -> set[str]:
        """Layers of its own store: those that it unpacked, and each container's."""
        return {path.parent.name for path in (self.store / "overlay").glob("*/diff")}
