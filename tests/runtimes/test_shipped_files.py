"""deploy/client-config says the same as what `--apply` writes on a fresh node."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from imagedist.runtimes.containerd import with_snapshotter
from imagedist.runtimes.containers import with_registry, with_store, without_repair
from imagedist.runtimes.docker import with_mirror
from imagedist.runtimes.documents import with_values
from imagedist.runtimes.hosts import with_host
from imagedist.runtimes.settings import Settings

SHIPPED = Path(__file__).parents[2] / "deploy/client-config"
MIRROR = "127.0.0.1:5050"
K3S_HOSTS = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"

WRITTEN = {
    "containerd/config-1.6.toml": with_snapshotter("", Settings(), (1, 6)),
    "containerd/config-1.7.toml": with_snapshotter("", Settings(), (1, 7)),
    "containerd/config-2.toml": with_snapshotter("", Settings(), (2, 0)),
    "k3s/50-imagedist.toml": with_snapshotter("", Settings(), (2, 0), hosts=K3S_HOSTS),
    "certs.d/_default/hosts.toml": with_host("", MIRROR),
    "nerdctl.toml": with_values("", {("snapshotter",): "imagedist"}),
    "daemon.json": with_mirror("", MIRROR),
    "crio.conf": without_repair(""),
}


def document(name: str, text: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    return read


@pytest.mark.parametrize("name", WRITTEN)
def test_a_shipped_file_says_what_is_written(name: str) -> None:
    assert document(name, (SHIPPED / name).read_text()) == document(name, WRITTEN[name])


def test_the_shipped_registries_and_stores_need_no_change() -> None:
    registries, storage = ((SHIPPED / name).read_text() for name in ("registries.conf", "storage.conf"))
    assert with_registry(registries, "docker.io", f"{MIRROR}/docker.io") == registries
    assert with_store(storage, "/var/lib/imagedist/storage") == storage
