"""The runtimes of the machine as private instances: own roots, own daemons, nothing of the machine's is touched."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.account import Account
from bench.contestant import Ready
from bench.directories import short_directory
from bench.processes import daemon, run, search_path, succeeds

_CONTAINERD = """\
version = 2
{top}
root = "{store}/containerd"
state = "{directory}/containerd"
[grpc]
address = "{socket}"
"""
_NO_CRI = """\
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
"""
"""Before the first table, 1.x's name and 2.x's; it needs a network for pods otherwise."""
_UNPACKS = 4
_PARALLEL = f"""\
[plugins."io.containerd.transfer.v1.local"]
max_concurrent_unpacks = {_UNPACKS}
"""
_PODMAN = """\
[engine]
lock_type = "file"
events_logger = "none"
cgroup_manager = "cgroupfs"
"""
"""podman's other locks are one file of the machine's own /dev/shm."""


def missing(*programs: str) -> str | None:
    """Why a contestant that needs these programs, and root, cannot run; None when it can."""
    return processes.missing(*programs) or (None if os.geteuid() == 0 else "needs root")


def _first_line(*command: str) -> str:
    return run(command).strip().splitlines()[0]


@contextmanager
def containerd(
    store: Path, directory: Path, account: Account, cri: str | None = None, tables: str = "", release: str = ""
) -> Iterator[Path]:
    """A containerd; its socket.

    Args:
        cri: configuration of Kubernetes' interface, TOML tables; None: it is left out.
        tables: more of its configuration.
        release: what its programs' names end with.
    """
    socket = directory / "containerd.sock"
    config = directory / "containerd.toml"
    top = _NO_CRI if cri is None else ""
    written = _CONTAINERD.format(top=top, store=store, directory=directory, socket=socket)
    config.write_text(written + (cri or "") + tables)
    command = [f"containerd{release}", "--config", str(config)]
    is_ready = [f"ctr{release}", "--address", str(socket), "--connect-timeout", "1s", "version"]
    with daemon(command, directory / "containerd.log", lambda: socket.exists() and succeeds(is_ready), account):
        yield socket


@dataclass(frozen=True, slots=True)
class Docker:
    """dockerd with overlay2, its own containerd, and unpigz where the machine has it."""

    name: str = "docker"
    is_ours: bool = False

    def cannot(self) -> str | None:
        return missing("dockerd", "docker", "containerd", "ctr")

    def version(self) -> str:
        unpigz = "with" if shutil.which("unpigz", path=search_path()) else "without"
        return f"{_first_line('dockerd', '--version')}, {unpigz} unpigz"

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with short_directory() as directory, containerd(store, directory, account) as address:
            host = f"unix://{directory}/docker.sock"
            (directory / "daemon.json").write_text("{}")
            command = [
                "dockerd",
                f"--config-file={directory}/daemon.json",
                f"--data-root={store}/docker",
                f"--exec-root={directory}/docker",
                f"--pidfile={directory}/docker.pid",
                f"--host={host}",
                f"--containerd={address}",
                "--storage-driver=overlay2",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--ip-forward=false",  # net.ipv4.ip_forward is the machine's
            ]
            client = ["docker", "--config", str(directory / "home"), "--host", host]
            with daemon(command, directory / "dockerd.log", lambda: succeeds([*client, "version"]), account):
                yield Ready(lambda reference: [*client, "pull", "--quiet", reference])


@dataclass(frozen=True, slots=True)
class Containerd:
    """containerd's ``ctr images pull``: fetched into its content store, unpacked by the overlayfs snapshotter."""

    name: str = "containerd"
    is_ours: bool = False

    def cannot(self) -> str | None:
        return missing("containerd", "ctr")

    def version(self) -> str:
        return _first_line("containerd", "--version")

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with short_directory() as directory, containerd(store, directory, account) as socket:
            client = ["ctr", "--address", str(socket), "images", "pull", "--plain-http", "--snapshotter", "overlayfs"]
            yield Ready(lambda reference: [*client, reference])


@dataclass(frozen=True, slots=True)
class ParallelContainerd:
    """containerd's transfer service, told to unpack several layers at once, which it can since 2.2."""

    name: str = "containerd-parallel"
    is_ours: bool = False

    def cannot(self) -> str | None:
        return missing("containerd-2", "ctr-2")

    def version(self) -> str:
        return f"{_first_line('containerd-2', '--version')}, {_UNPACKS} unpacks at once"

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with (
            short_directory() as directory,
            containerd(store, directory, account, tables=_PARALLEL, release="-2") as socket,
        ):
            client = ["ctr-2", "--address", str(socket), "images", "pull", "--plain-http", "--snapshotter", "overlayfs"]
            yield Ready(lambda reference: [*client, reference])


@dataclass(frozen=True, slots=True)
class Nerdctl:
    """nerdctl, with a containerd of its own and the overlayfs snapshotter."""

    name: str = "nerdctl"
    is_ours: bool = False

    def cannot(self) -> str | None:
        return missing("nerdctl", "containerd", "ctr")

    def version(self) -> str:
        return _first_line("nerdctl", "--version")

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with short_directory() as directory, containerd(store, directory, account) as socket:
            client = ["nerdctl", "--address", str(socket), "--data-root", f"{store}/nerdctl"]
            flags = ["--snapshotter", "overlayfs", "--insecure-registry"]
            yield Ready(lambda reference: [*client, *flags, "pull", "--quiet", reference])


@dataclass(frozen=True, slots=True)
class SkopeoUmoci:
    """``skopeo copy`` into an OCI layout, which ``umoci unpack`` makes one directory of; neither has a store."""

    name: str = "skopeo+umoci"
    is_ours: bool = False

    def cannot(self) -> str | None:
        return missing("skopeo", "umoci")

    def version(self) -> str:
        return f"{_first_line('skopeo', '--version')}, {_first_line('umoci', '--version')}"

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        copy = "skopeo --insecure-policy copy --quiet --src-tls-verify=false"
        script = f'{copy} "docker://$1" "oci:$0/layout:image" && umoci unpack --image "$0/layout:image" "$0/bundle"'
        # Each pull has a layout and a bundle of its own: umoci refuses a bundle that is there.
        numbers = itertools.count()

        def command(reference: str) -> list[str]:
            place = store / f"umoci{next(numbers)}"
            place.mkdir()
            return ["sh", "-c", script, str(place), reference]

        yield Ready(command)


@dataclass(frozen=True, slots=True)
class Podman:
    """podman with the overlay driver. Its blobs on their way lie in memory, and count as such; a user's are on disk."""

    name: str = "podman"
    is_ours: bool = False

    def cannot(self) -> str | None:
        return missing("podman")

    def version(self) -> str:
        return _first_line("podman", "--version")

    @contextmanager
    def ready(self, store: Path, account: Account, registry: str) -> Iterator[Ready]:
        with short_directory() as directory:
            config, ramdisk = directory / "containers.conf", directory / "blobs"
            config.write_text(_PODMAN)
            ramdisk.mkdir()
            roots = ["--root", f"{store}/podman", "--runroot", f"{directory}/run", "--storage-driver", "overlay"]
            flags = ["--quiet", "--tls-verify=false"]
            yield Ready(
                lambda reference: ["podman", *roots, "pull", *flags, reference],
                environment={"CONTAINERS_CONF": str(config), "TMPDIR": str(ramdisk)},
                ramdisk=ramdisk,
            )
