"""A containerd with Kubernetes' interface whose snapshotter is ours, beside one agent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from subprocess import CompletedProcess

from bench.cri.client import ImageService
from imagedist.demo.layout import BuiltImage, open_layout, put_json, write_index
from imagedist.errors import SourceError
from imagedist.oci.manifest import OCI_CONFIG, OCI_MANIFEST
from tests.e2e.conftest import HOSTS
from tests.e2e.node import Node
from tests.e2e.processes import Process
from tests.e2e.releases import V1_6, Release
from tests.e2e.site import Agent
from tests.e2e.upstream import NAME
from tests.support.activation import activated
from tests.support.cri.client import Runtime

HOSTS_TOML = """\
server = "http://{registry}"
[host."{mirror}"]
capabilities = ["pull", "resolve"]
"""
"""The registry speaks no TLS, so its names need files of their own beside the shipped one."""
# Both in one mount namespace; ctr prints the commands that mount a snapshot. The garbage collection, which comes
# some time after a pull, takes a snapshot without a label.
_COMPARE = """
viewed() {
    of() { command="$1"; shift; ctr --namespace "$NAMESPACE" snapshots --snapshotter "$SNAPSHOTTER" "$command" "$@"; }
    NAMESPACE="$1" SNAPSHOTTER="$2"
    for attempt in 1 2 3; do
        of view "$DIR" "$CHAIN" >/dev/null
        if of label "$DIR" containerd.io/gc.root=compared >/dev/null; then break; fi
    done
    mkdir -p "$DIR/$SNAPSHOTTER"
    eval "$(of mounts "$DIR/$SNAPSHOTTER" "$DIR")"
}
viewed k8s.io imagedist
viewed plain overlayfs
"$PYTHON" -m imagedist diff "$DIR/imagedist" "$DIR/overlayfs" || true
ctr --namespace k8s.io snapshots --snapshotter imagedist rm "$DIR"
"""
_CNI = {
    "none.conf": '{"cniVersion": "0.3.1", "name": "none", "type": "none"}',
    **dict.fromkeys(
        ("none", "loopback"),
        """\
#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "0.3.1", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}],'
echo ' "ips": [{"version": "4", "interface": 0, "address": "192.0.2.2/24"}]}'
""",
    ),
}
"""A network that is none, for pods with one of their own."""
NAMESPACE = "k8s.io"
PAUSE_REGISTRY = "registry.k8s.io"
WAITS = ("/bin/sh", "-c", "cat /dev/ptmx")
"""A command that does nothing, and does not end: it waits for a terminal that nobody opens."""


def with_command(built: BuiltImage, layout: Path, command: Sequence[str]) -> BuiltImage:
    """The same image with another command, in a layout of its own."""
    shutil.copytree(built.layout, layout)
    manifest, config = json.loads(built.image.manifest_bytes), json.loads(built.image.config_bytes)
    config["config"]["Cmd"] = list(command)
    manifest["config"] = put_json(layout, config, OCI_CONFIG)
    write_index(layout, put_json(layout, manifest, OCI_MANIFEST), "pause")
    return open_layout(layout)


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
    """A containerd with the configuration shipped for it; images by CRI, the rest by ``ctr``.

    Args:
        base: the node's directories. agent: its mirror is asked first, then the registry itself.
        etc: more files below ``/etc``. hosts: the names it knows.
    """

    def __init__(
        self,
        base: Path,
        agent: Agent,
        release: Release = V1_6,
        etc: Mapping[str, str] | None = None,
        hosts: Mapping[str, str] = HOSTS,
    ) -> None:
        self.release = release
        self.node = Node(base, hosts, agent.storage, release.usr)
        ours = HOSTS_TOML.format(registry=NAME, mirror=agent.url)
        mirrors = {f"containerd/certs.d/{name}/hosts.toml": ours for name in (NAME, PAUSE_REGISTRY)}
        for name, content in {"containerd/config.toml": release.config, **mirrors, **(etc or {})}.items():
            (self.node.etc / name).parent.mkdir(parents=True, exist_ok=True)
            (self.node.etc / name).write_text(content)
        (self.node.run_directory / "cni").mkdir()
        for name, content in _CNI.items():
            (self.node.run_directory / "cni" / name).write_text(content)
            (self.node.run_directory / "cni" / name).chmod(0o755)
        socket_link = self.node.run_directory / "imagedist/snapshotter.sock"
        socket_link.parent.mkdir()
        socket_link.symlink_to(agent.snapshotter_socket)
        # As config-1.6.toml says.
        (base / "lib/containerd/io.containerd.snapshotter.v1.imagedist").mkdir(parents=True)
        self.socket = self.node.run_directory / "containerd/containerd.sock"
        self._process = self._started()

    def _started(self) -> Process:
        process = self.node.start(["containerd"], "containerd")
        try:
            process.wait_until(lambda: self.ctr("version").returncode == 0, "containerd")
        except AssertionError:
            process.stop()
            raise
        return process

    def start_beside(self, argv: Sequence[str], name: str) -> Process:
        """Another daemon of this node, which containerd is to see mount things."""
        return self.node.start_beside(self._process, argv, name)

    def restart(self) -> None:
        """Containers go on: their shims are no children of containerd's."""
        self._process.stop()
        self._process = self._started()

    def stop(self) -> None:
        self._process.stop()

    def images(self) -> ImageService:
        return ImageService(self.socket)

    def runtime(self) -> Runtime:
        logs = self.node.base / "logs"
        logs.mkdir(exist_ok=True)
        return Runtime(self.socket, logs)

    def pause(self) -> str:
        """The image that holds a pod of this release, ``repository:tag``."""
        default = self.node.succeed(["containerd", "config", "default"]).stdout
        (name,) = set(re.findall(rf"{re.escape(PAUSE_REGISTRY)}/([a-z]+:[\w.]+)", default))
        return name

    def ctr(self, *arguments: str, namespace: str = NAMESPACE) -> CompletedProcess[str]:
        return self.node.run(["ctr", "--namespace", namespace, *arguments])

    def fetched(self, built: BuiltImage, namespace: str = NAMESPACE) -> set[str]:
        """The layers of an image that containerd fetched itself."""
        content = self.ctr("content", "ls", "--quiet", namespace=namespace).stdout.split()
        return {str(layer.descriptor.digest) for layer in built.image.layers}.intersection(content)

    def snapshots(self, namespace: str = NAMESPACE) -> list[str]:
        rows = self.ctr("snapshots", "--snapshotter", "imagedist", "ls", namespace=namespace).stdout.splitlines()[1:]
        return [row.split()[0] for row in rows]

    def collect(self) -> None:
        """containerd's garbage collection, to its end: it comes with the removal of a lease."""
        self.ctr("leases", "create", "--id", "collect")
        self.ctr("leases", "delete", "--sync", "collect")

    def run(
        self, name: str, *command: str, container: str = "test", namespace: str = NAMESPACE
    ) -> CompletedProcess[str]:
        """A container of an image that is here, on the host's network; what it printed is the output.

        It prints to a file: ctr loses what a container writes that has ended before ctr has opened its pipes.
        """
        printed = self.node.base / "printed"
        printed.unlink(missing_ok=True)
        options = ["--rm", "--snapshotter", "imagedist", "--net-host", "--log-uri", f"file://{printed}"]
        done = self.node.run(["ctr", "--namespace", namespace, "run", *options, name, _own(container), *command])
        return CompletedProcess(
            done.args, done.returncode, printed.read_text() if printed.exists() else "", done.stderr
        )

    def begin(self, name: str, container: str) -> str:
        """A container that does nothing, and does not end; the name of its snapshot."""
        options = ["--detach", "--null-io", "--snapshotter", "imagedist", "--net-host"]
        self.node.succeed(["ctr", "--namespace", NAMESPACE, "run", *options, name, _own(container), *WAITS])
        return _own(container)

    def end(self, container: str) -> None:
        self.ctr("task", "rm", "--force", _own(container))
        self.ctr("containers", "rm", _own(container))


def _own(container: str) -> str:
    """Its control group lies in the machine's one tree, where tests that run at the same time have theirs."""
    return f"{container}-{os.getpid()}"


def difference(cri: CriContainerd, name: str, built: BuiltImage, directory: Path, script: str = _COMPARE) -> list[str]:
    """What ``imagedist diff`` says after a script has made two trees of an image, ours and overlayfs'."""
    pull = ["ctr", "--namespace", "plain", "images", "pull", "--snapshotter", "overlayfs", "--hosts-dir"]
    cri.node.succeed([*pull, "/etc/containerd/certs.d", name])
    values = {"DIR": str(directory), "CHAIN": str(built.image.layers[-1].chain_id), "PYTHON": sys.executable}
    return cri.node.succeed(["sh", "-euc", script], values).stdout.splitlines()
