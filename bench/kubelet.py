"""containerd as kubelet uses it: images by CRI, unpacked by the overlayfs snapshotter, by imagedist's or by SOCI's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench import soci
from bench.account import Account
from bench.contestant import Ready, own_version
from bench.directories import short_directory
from bench.peers import containerd, missing
from bench.processes import daemon, run
from bench.site import pull, site

Snapshotter = Literal["imagedist", "overlayfs", "soci"]

_CRI = """\
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{hosts}"
"""
_PROXY_PLUGIN = """\
[proxy_plugins.{name}]
type = "snapshot"
address = "{socket}"
"""
_HOSTS = 'server = "http://{registry}"\n[host."{mirror}"]\ncapabilities = ["pull", "resolve"]\n'
_NAMESPACE = "k8s.io"
_UNPACKED = (
    "storage/overlay/*/diff",
    "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs",
    f"{soci.LAYERS}/*/fs",
)
"""Where each snapshotter has layers, below a store."""
_CALLS = 200
_KEPT = {"containerd.io/gc.root": "imagedist-bench"}
"""Else containerd's garbage collection may come between two calls."""
_SERVICE = "containerd.services.snapshots.v1.Snapshots"
_CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """A containerd that runs, and what is to be known of the agent beside it."""

    socket: Path
    ready: Ready


@contextmanager
def node(snapshotter: Snapshotter, store: Path, account: Account, registry: str) -> Iterator[Node]:
    """containerd 1.6 with CRI and one snapshotter: SOCI's with its process, ours with that, a site and its agent.

    Raises:
        ImagedistError: something did not start.
    """
    with short_directory() as directory, ExitStack() as stack:
        hosts = directory / "certs.d" / registry
        hosts.mkdir(parents=True)
        mirror, plugin, ready = f"http://{registry}", "", Ready()
        if snapshotter == "imagedist":
            here = stack.enter_context(site(store, account, registry))
            command = [sys.executable, "-m", "imagedist", "snapshotter", "--config", str(here.agent_config)]
            is_ready = here.snapshotter_socket.exists
            stack.enter_context(daemon(command, directory / "snapshotter.log", is_ready, account))
            mirror, plugin = here.mirror, _PROXY_PLUGIN.format(name=snapshotter, socket=here.snapshotter_socket)
            ready = Ready(environment=here.environment, ramdisk=here.ramdisk, site=here.account)
        elif snapshotter == "soci":
            socket = stack.enter_context(soci.snapshotter(store, directory, account, registry))
            plugin = _PROXY_PLUGIN.format(name=snapshotter, socket=socket)
        (hosts / "hosts.toml").write_text(_HOSTS.format(registry=registry, mirror=mirror))
        cri = plugin + _CRI.format(snapshotter=snapshotter, hosts=hosts.parent)
        yield Node(stack.enter_context(containerd(store, directory, account, cri)), ready)


@dataclass(frozen=True, slots=True)
class Kubelet:
    """CRI's ``PullImage``, timed as the call; with ``runs`` also a container of the image, to its end.

    Args:
        is_unpacked_before: what is to be on the node beforehand comes by ``imagedist pull``, not by CRI.
    """

    name: str
    snapshotter: Snapshotter
    is_unpacked_before: bool = False
    runs: bool = False

    @property
    def is_ours(self) -> bool:
        return self.snapshotter == "imagedist"

    def cannot(self) -> str | None:
        try:
            import grpc
        except ImportError:
            return "grpcio not installed: pip install 'imagedist[containerd]'"
        del grpc
        of_soci = (soci.PROGRAM,) if self.snapshotter == "soci" else ()
        return missing("containerd", "ctr", *of_soci, *(("runc",) if self.runs else ()))

    def version(self) -> str:
        theirs = f"{soci.version()}, by " if self.snapshotter == "soci" else ""
        return own_version() if self.is_ours else theirs + run(["containerd", "--version"]).strip()

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        from bench.cri.client import ImageService

        with (
            node(self.snapshotter, store, account, registry) as here,
            ImageService(here.socket) as images,
        ):

            def call(reference: str) -> None:
                images.pull(reference)
                if self.runs:
                    self._run(here.socket, reference)

            prepare = pull if self.is_unpacked_before else None
            if self.runs:  # the container's own directory may go this moment
                yield replace(here.ready, call=call, prepare=prepare)
            else:
                yield replace(here.ready, call=call, prepare=prepare, figures=lambda: _disk(store))

    def _run(self, socket: Path, reference: str) -> None:
        flags = ["--rm", "--snapshotter", self.snapshotter, "--net-host"]
        client = ["ctr", "--address", str(socket), "--namespace", _NAMESPACE]
        run([*client, "run", *flags, reference, "bench"])


def _disk(store: Path) -> dict[str, float]:
    """Bytes of the disk: of all a node has of its images but what it seeds to others, and of the layers alone."""
    layers = [path for pattern in _UNPACKED for path in store.glob(pattern)]
    return {
        "node_bytes": _disk_bytes([store], f"--exclude={store}/blobs"),
        "layer_bytes": _disk_bytes(layers) if layers else 0.0,
    }


def _disk_bytes(paths: Sequence[Path], *flags: str) -> float:
    lines = run(["du", "--summarize", "--total", "--block-size=1", *flags, "--", *map(str, paths)]).splitlines()
    return float(lines[-1].split()[0])


@dataclass(frozen=True, slots=True)
class Calls:
    """What a container's start asks of a snapshotter, without the container: Prepare, Mounts, Remove, many times."""

    name: str
    snapshotter: Snapshotter

    CALLS: ClassVar[int] = 3 * _CALLS

    @property
    def is_ours(self) -> bool:
        return self.snapshotter == "imagedist"

    def cannot(self) -> str | None:
        return Kubelet(self.name, self.snapshotter).cannot()

    def version(self) -> str:
        return Kubelet(self.name, self.snapshotter).version()

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        import grpc

        from imagedist.snapshotter.wire import snapshots_pb2 as wire

        with (
            node(self.snapshotter, store, account, registry) as here,
            grpc.insecure_channel(f"unix:{here.socket}") as channel,
        ):

            def ask(method: str, request: Any) -> None:
                call = channel.unary_unary(f"/{_SERVICE}/{method}", lambda message: message.SerializeToString())
                call(request, timeout=_CALL_SECONDS, metadata=(("containerd-namespace", _NAMESPACE),))

            def cycle(reference: str) -> None:
                for number in range(_CALLS):
                    names = {"snapshotter": self.snapshotter, "key": f"call-{number}"}
                    ask("Prepare", wire.PrepareSnapshotRequest(**names, labels=_KEPT))
                    ask("Mounts", wire.MountsRequest(**names))
                    ask("Remove", wire.RemoveSnapshotRequest(**names))

            yield Ready(call=cycle)  # nothing that a site has a part in
