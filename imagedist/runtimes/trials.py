"""How each runtime shows that it works: it pulls the canary as its users do, says who unpacked it, and runs it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagedist.errors import ImagedistError
from imagedist.oci.manifest import Manifest, parse_document
from imagedist.oci.reference import Reference
from imagedist.overlay.store import OverlayStore
from imagedist.runtimes import asking, cri
from imagedist.runtimes.asking import ask
from imagedist.runtimes.docker import reads_hosts
from imagedist.runtimes.handover import Runtime, hand_over
from imagedist.runtimes.settings import SNAPSHOTTER

Answer = Literal["yes", "no", "-"]

_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Canary:
    """An image that the site serves.

    Attributes:
        prefix: its registry's path at the mirror.
        command: what a container of it runs; empty: the image's own.
        says: what that prints.
        store: our image store. pull: makes the agent unpack it there. drop: takes it out, unless it was there before.
    """

    reference: Reference
    mirror: str
    prefix: str
    command: tuple[str, ...]
    says: str
    store: Path
    pull: Callable[[], None]
    drop: Callable[[], None]

    @property
    def name(self) -> str:
        return str(self.reference)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``-``: not for this runtime. ``ran`` is what the container printed, or None if there was none.

    Attributes:
        asks_mirror: whether it would ask our mirror for this registry.
    """

    unpacked: Answer
    ran: str | None
    detail: str = ""
    asks_mirror: bool = True


def try_docker(canary: Canary) -> Outcome:
    driver, version = ask("docker", "info", "--format", "{{.Driver}} {{.ServerVersion}}").split() or ("", "")
    detail, asks_mirror = "", True
    if driver == SNAPSHOTTER or canary.reference.registry == "docker.io":
        _run("docker", "pull", canary.name)
        if canary.reference.registry != "docker.io" and not reads_hosts(version):
            detail, asks_mirror = "Docker before 28 asks our mirror for docker.io only: the layers came by us", False
    else:
        _hand_over("docker", canary)
        detail = "by `pull --into docker`: registry-mirrors are for docker.io only"
    unpacked = _unpacked_by_us(canary, cri.CONTAINERD, "moby") if driver == SNAPSHOTTER else "-"
    with _removed("docker", "rmi", canary.name):
        run = ["docker", "run", "--rm", "--network", "none", "--pull", "never", canary.name, *canary.command]
        return Outcome(unpacked, _run(*run), detail, asks_mirror)


def try_podman(canary: Canary) -> Outcome:
    """Pulls by the mirror, then runs the copy in our store, of which podman says that it is read-only."""
    _hand_over("podman", canary)
    _run("podman", "rmi", canary.name)
    canary.pull()
    is_ours = ask("podman", "image", "list", "--filter", f"reference={canary.name}", "--format", "{{.ReadOnly}}")
    run = ["podman", "run", "--rm", "--network", "none", "--pull", "never", canary.name, *canary.command]
    return Outcome("yes" if is_ours == "true" else "no", _run(*run), "pulled by the mirror's address")


def try_nerdctl(canary: Canary) -> Outcome:
    canary.pull()
    _run("nerdctl", "pull", canary.name)
    with _removed("nerdctl", "rmi", canary.name):
        ran = _run("nerdctl", "run", "--rm", "--network", "none", canary.name, *canary.command)
        return Outcome(_unpacked_by_us(canary, cri.CONTAINERD, "default"), ran)


def try_containerd(canary: Canary, socket: Path = cri.CONTAINERD) -> Outcome:
    """As kubelet: CRI's PullImage; then a container by ``ctr`` in Kubernetes' namespace."""
    cri.pull_image(socket, canary.name)
    try:
        unpacked = _unpacked_by_us(canary, socket, "k8s.io")
        return Outcome(unpacked, _run_by_ctr(canary, socket))
    finally:
        with contextlib.suppress(ImagedistError):
            cri.remove_image(socket, canary.name)


def try_k3s(canary: Canary) -> Outcome:
    return try_containerd(canary, cri.K3S)


def try_crio(canary: Canary) -> Outcome:
    """Pulls by the mirror; then, without that copy, it has the one in our store. Containers are kubelet's to make."""
    by_mirror = f"{canary.mirror}/{canary.prefix}/{canary.name.removeprefix(f'{canary.reference.registry}/')}"
    cri.pull_image(cri.CRIO, by_mirror)
    cri.remove_image(cri.CRIO, by_mirror)
    canary.pull()
    has_ours = cri.has_image(cri.CRIO, canary.name)
    detail = "pulled by the mirror's address; not run, as its containers are pods, kubelet's to make"
    return Outcome("yes" if has_ours else "no", None, detail)


TRIALS: dict[str, Callable[[Canary], Outcome]] = {
    "docker": try_docker,
    "containerd": try_containerd,
    "nerdctl": try_nerdctl,
    "podman": try_podman,
    "crio": try_crio,
    "k3s": try_k3s,
    "rke2": try_k3s,
}


def _unpacked_by_us(canary: Canary, socket: Path, namespace: str) -> Answer:
    """containerd's content store has none of the layers: it never fetched them, so it cannot have unpacked them.

    Which layers, our store says; the snapshotter's pull has no name there yet, so the agent is asked for it by name.
    """
    canary.pull()
    store = OverlayStore(canary.store)
    manifest = parse_document("", store.manifest_bytes(store.find(canary.name)), canary.name)
    assert isinstance(manifest, Manifest)  # of one platform, as the store keeps it
    fetched = set(_run(*_ctr(socket, namespace), "content", "ls", "--quiet").split())
    return "no" if fetched & {str(layer.digest) for layer in manifest.layers} else "yes"


def _ctr(socket: Path, namespace: str) -> list[str]:
    return ["ctr", "--address", str(socket), "--namespace", namespace]


def _run_by_ctr(canary: Canary, socket: Path) -> str:
    """To a file that containerd sees: what ends before ctr has opened its pipes has printed for nobody."""
    with tempfile.TemporaryDirectory(prefix="imagedist-", dir=socket.parent) as directory:
        printed = Path(directory, "printed")
        printed.touch()
        options = ["--rm", "--snapshotter", SNAPSHOTTER, "--log-uri", f"file://{printed}"]
        name = f"imagedist-canary-{canary.reference.tag}"
        _run(*_ctr(socket, "k8s.io"), "run", *options, canary.name, name, *canary.command)
        return printed.read_text(errors="replace")


def _hand_over(runtime: Runtime, canary: Canary) -> None:
    asyncio.run(hand_over(runtime, canary.reference, canary.mirror, canary.prefix))


@contextlib.contextmanager
def _removed(*command: str) -> Iterator[None]:
    """Afterwards the image goes, however it went."""
    try:
        yield
    finally:
        with contextlib.suppress(ImagedistError):
            _run(*command)


def _run(*command: str) -> str:
    return asking.run(command, _TIMEOUT_SECONDS)
