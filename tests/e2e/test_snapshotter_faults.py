"""What is broken on a node, one thing after the other: kubelet's pull succeeds all the same, or says why it cannot."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from imagedist.demo.image import GREETING
from imagedist.demo.layout import BuiltImage
from imagedist.errors import SourceError
from imagedist.snapshotter.remote import IMAGE_LABEL, LAYER_LABEL, MANIFEST_LABEL, REF_LABEL
from imagedist.snapshotter.service import SERVICE
from imagedist.snapshotter.wire import snapshots_pb2 as wire
from tests.e2e.site import Agent, Site
from tests.e2e.snapshotter import HOSTS_TOML, NAMESPACE, CriContainerd, Snapshotter
from tests.e2e.upstream import NAME

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "containerd")

APP = f"{NAME}/team/app:1"
PRINT = ("/bin/sh", "-c", "cat /etc/imagedist-demo")


class FaultyNode:
    """An agent, its snapshotter and a containerd.

    Args:
        changes: of the lines of ``agent.toml``. mirror: the agent whose mirror containerd asks; None: the same.
    """

    def __init__(self, base: Path, name: str, site: Site, changes: dict[str, str], mirror: Agent | None = None) -> None:
        self._stack = contextlib.ExitStack()
        self.agent = Agent(base / f"n-{name}", "127.0.0.1:5056", "127.0.0.8:6882", site)
        text = self.agent.config.read_text()
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        self.agent.config.write_text(text)
        self.snapshotter = Snapshotter(self.agent)
        self._base = base / f"k-{name}"
        self._mirror = mirror or self.agent

    def start(self) -> CriContainerd:
        self.agent.start()
        self._stack.callback(self.agent.stop)
        self.snapshotter.start()
        self._stack.callback(self.snapshotter.close)
        hosts = HOSTS_TOML.format(registry=NAME, mirror=self._mirror.url)
        self.cri = CriContainerd(self._base, self.agent, etc={f"containerd/certs.d/{NAME}/hosts.toml": hosts})
        self._stack.callback(self.cri.stop)
        return self.cri

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def faulty(*arguments: Any, **keywords: Any) -> Iterator[FaultyNode]:
    node = FaultyNode(*arguments, **keywords)
    try:
        yield node
    finally:
        node.close()


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    """A directory with so much space."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def assert_pulled_by_containerd(cri: CriContainerd, image: BuiltImage, name: str = APP) -> None:
    with cri.images() as service:
        assert service.pull(name) == str(image.image.id)
    assert len(cri.fetched(image)) > 0, "the agent has done it, in spite of all"
    done = cri.run(name, *PRINT)
    assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr


def test_an_agent_that_takes_too_long_is_not_waited_for(base: Path, site: Site, images: dict[str, BuiltImage]) -> None:
    slow = {'patience = "30s"\n': 'wait = "500ms"\n[limits]\ndownload = "8MiB/s"\n'}
    with faulty(base, "slow", site, slow) as node:
        assert_pulled_by_containerd(node.start(), images["team/app:1"])


def test_an_agent_that_stands_still_is_not_waited_for(
    base: Path, site: Site, second: Agent, images: dict[str, BuiltImage]
) -> None:
    with faulty(base, "still", site, {'patience = "30s"': 'patience = "1s"'}, mirror=second) as node:
        cri = node.start()
        assert node.agent.pid is not None
        os.kill(node.agent.pid, signal.SIGSTOP)
        try:
            assert_pulled_by_containerd(cri, images["team/app:1"])
        finally:
            os.kill(node.agent.pid, signal.SIGCONT)


def test_an_agent_without_disk_for_blobs_passes_them_on(base: Path, site: Site, images: dict[str, BuiltImage]) -> None:
    with small_disk(base / "n-blobs/blobs", "1m"), faulty(base, "blobs", site, {}) as node:
        cri = node.start()
        with cri.images() as service:
            assert service.pull(APP) == str(images["team/app:1"].image.id)
        assert cri.run(APP, *PRINT).stdout.strip() == GREETING


def test_an_image_that_the_agent_refuses_is_left_to_containerd(
    base: Path, site: Site, images: dict[str, BuiltImage]
) -> None:
    strict = {"[snapshotter]": "[snapshotter]", "[unpack]\n": "[unpack]\nmax_layer_entries = 5\n"}
    with faulty(base, "strict", site, strict) as node:
        assert_pulled_by_containerd(node.start(), images["team/app:1"])


def test_a_store_without_space_is_told_and_works_again_when_it_has_some(
    base: Path, site: Site, images: dict[str, BuiltImage]
) -> None:
    storage = base / "n-full/storage"
    with small_disk(storage, "3m"), faulty(base, "full", site, {}) as node:
        cri = node.start()
        with cri.images() as service:
            with pytest.raises(SourceError, match=r"no space left|is full"):
                service.pull(APP)
        assert cri.ctr("snapshots", "--snapshotter", "imagedist", "ls").returncode == 0

        subprocess.run(["mount", "-o", "remount,size=400m", storage], check=True)

        with cri.images() as service:
            assert service.pull(APP) == str(images["team/app:1"].image.id)
        assert cri.run(APP, *PRINT).stdout.strip() == GREETING
        assert "bad   snap" not in node.agent.try_imagedist("doctor", "--config", str(node.agent.config)).stdout


def test_what_is_wrong_with_a_request_is_a_status_that_containerd_understands(
    base: Path, site: Site, images: dict[str, BuiltImage]
) -> None:
    image = images["team/app:1"].image
    told = {
        IMAGE_LABEL: APP,
        MANIFEST_LABEL: str(image.manifest_digest),
        LAYER_LABEL: str(image.layers[0].descriptor.digest),
        REF_LABEL: str(image.layers[-1].chain_id),  # not this layer's
        "containerd.io/gc.root": "kept",
    }
    with faulty(base, "odd", site, {}) as node, grpc.insecure_channel(f"unix:{node.start().socket}") as channel:

        def prepare(**request: Any) -> Any:
            call = channel.unary_unary(
                f"/{SERVICE}/Prepare",
                request_serializer=wire.PrepareSnapshotRequest.SerializeToString,
                response_deserializer=wire.PrepareSnapshotResponse.FromString,
            )
            prepared = wire.PrepareSnapshotRequest(snapshotter="imagedist", **request)
            return call(prepared, timeout=60, metadata=(("containerd-namespace", NAMESPACE),)).mounts

        assert prepare(key="lie", labels=told)[0].type == "bind", "a chain was believed that is not this layer's"
        odd = "a/../../b\n\t'\";--ü"
        assert prepare(key=odd, labels={"containerd.io/gc.root": "kept"})[0].type == "bind"
        with pytest.raises(grpc.RpcError) as taken:
            prepare(key=odd)
        assert taken.value.code() is grpc.StatusCode.ALREADY_EXISTS
        with pytest.raises(grpc.RpcError) as missing:
            prepare(key="more", parent="sha256:nowhere")
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
        assert node.cri.ctr("snapshots", "--snapshotter", "imagedist", "rm", odd, "lie").returncode == 0


def test_a_newer_versions_database_holds_up_new_containers_only(
    base: Path, site: Site, images: dict[str, BuiltImage]
) -> None:
    with faulty(base, "newer", site, {}) as node:
        cri = node.start()
        with cri.images() as service:
            service.pull(APP)
        cri.begin(APP, "lasting")
        node.snapshotter.kill()
        set_version(node.agent, 99)

        node.snapshotter.start()

        listed = cri.ctr("snapshots", "--snapshotter", "imagedist", "ls")
        assert listed.returncode != 0
        assert "newer imagedist" in listed.stderr
        assert "RUNNING" in cri.ctr("task", "ls").stdout
        set_version(node.agent, 1)
        assert cri.run(APP, *PRINT).stdout.strip() == GREETING
        cri.end("lasting")


def set_version(agent: Agent, version: int) -> None:
    database = sqlite3.connect(agent.storage / "imagedist/snapshots/snapshots.db")
    with contextlib.closing(database):
        database.execute(f"PRAGMA user_version = {version}")
