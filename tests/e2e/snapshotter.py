"""A containerd with Kubernetes' interface whose snapshotter is ours, beside one agent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from concurrent.futures import Future
from pathlib import Path
from subprocess import CompletedProcess

from bench.cri.client import ImageService
from imagedist.demo.layout import BuiltImage
from imagedist.errors import SourceError
from tests.e2e.node import Node
from tests.e2e.processes import Process, run
from tests.e2e.site import Agent
from tests.e2e.upstream import NAME
from tests.support.activation import activated

_CONFIG = """\
version = 2
[proxy_plugins.imagedist]
type = "snapshot"
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "imagedist"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{hosts}"
"""
_HOSTS = """\
server = "http://{name}"
[host."{mirror}"]
capabilities = ["pull", "resolve"]
"""
NAMESPACE = "k8s.io"


class Snapshotter:
    """``imagedist snapshotter`` of one agent's configuration. Its socket is held here, as by its systemd unit."""

    def __init__(self, agent: Agent) -> None:
        self._held = socket.socket(socket.AF_UNIX)
        self._held.bind(str(agent.snapshotter_socket))
        self._held.listen(128)
        command = ["snapshotter", "--verbose", "--config", str(agent.config)]
        self._argv = activated(self._held.fileno(), command)
        self._log = agent.config.with_name("snapshotter.log")
        self._process: Process | None = None

    def start(self) -> None:
        """Calls wait until it serves."""
        if self._process is None or not self._process.is_running():
            self._process = Process(self._argv, self._log, descriptors=[self._held.fileno()])

    def kill_after(self, seconds: float, unless: Future[str]) -> None:
        """SIGKILL in the middle of something, wherever it is then."""
        with contextlib.suppress(TimeoutError, SourceError):
            unless.result(seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.stop()

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()
        self._held.close()


class CriContainerd:
    """Debian's containerd, its images by CRI, the rest by ``ctr``; the mirror first, then the registry itself."""

    def __init__(self, node: Node, agent: Agent) -> None:
        self.node = node
        hosts = node.base / "certs.d"
        (hosts / NAME).mkdir(parents=True)
        (hosts / NAME / "hosts.toml").write_text(_HOSTS.format(name=NAME, mirror=agent.url))
        config = node.base / "containerd.toml"
        config.write_text(_CONFIG.format(socket=agent.snapshotter_socket, hosts=hosts))
        self._config = config
        self._address = f"{node.run_directory}/containerd/containerd.sock"
        self._process = self._started()

    def _started(self) -> Process:
        process = self.node.start(["containerd", "--config", str(self._config)], "containerd")
        try:
            process.wait_until(lambda: self.ctr("version").returncode == 0, "containerd")
        except AssertionError:
            process.stop()
            raise
        return process

    def restart(self) -> None:
        """Containers go on: their shims are no children of containerd's."""
        self._process.stop()
        self._process = self._started()

    def stop(self) -> None:
        self._process.stop()

    def images(self) -> ImageService:
        return ImageService(Path(self._address))

    def ctr(self, *arguments: str) -> CompletedProcess[str]:
        return run(["ctr", "--address", self._address, "--namespace", NAMESPACE, *arguments])

    def fetched(self, built: BuiltImage) -> set[str]:
        """The layers of an image that containerd fetched itself."""
        content = self.ctr("content", "ls", "--quiet").stdout.split()
        return {str(layer.descriptor.digest) for layer in built.image.layers}.intersection(content)

    def snapshots(self) -> list[str]:
        rows = self.ctr("snapshots", "--snapshotter", "imagedist", "ls").stdout.splitlines()[1:]
        return [row.split()[0] for row in rows]

    def collect(self) -> None:
        """containerd's garbage collection, to its end: it comes with the removal of a lease."""
        self.ctr("leases", "create", "--id", "collect")
        self.ctr("leases", "delete", "--sync", "collect")

    def run(self, name: str, *command: str, container: str = "test") -> CompletedProcess[str]:
        """A container of an image that is here, on the host's network."""
        options = ["--rm", "--snapshotter", "imagedist", "--net-host"]
        return self.node.run(["ctr", "--namespace", NAMESPACE, "run", *options, name, container, *command])

    def begin(self, name: str, container: str) -> None:
        """A container that does nothing, and does not end."""
        options = ["--detach", "--null-io", "--snapshotter", "imagedist", "--net-host"]
        waits = ["/bin/sh", "-c", "cat /dev/ptmx"]  # for a terminal that nobody opens
        self.node.succeed(["ctr", "--namespace", NAMESPACE, "run", *options, name, container, *waits])

    def end(self, container: str) -> None:
        self.ctr("task", "rm", "--force", container)
        self.ctr("containers", "rm", container)
