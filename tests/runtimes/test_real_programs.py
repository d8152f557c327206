"""The programs themselves accept what is written for them: Debian's containerd, podman and dockerd."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtimes.trees import DEBIANS_CONTAINERD, put


def apply(root: Path, *names: str) -> None:
    command = [sys.executable, "-m", "imagedist", "runtimes", "--apply", *names, "--root", str(root)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.e2e("containerd")
@pytest.mark.parametrize("before", [DEBIANS_CONTAINERD, None])
def test_containerd_reads_our_plugin_and_cri_uses_it(tmp_path: Path, before: str | None) -> None:
    if before is not None:
        put(tmp_path, "/etc/containerd/config.toml", before)
    apply(tmp_path, "containerd")

    config = tmp_path / "etc/containerd/config.toml"
    done = subprocess.run(
        ["containerd", "--config", str(config), "config", "dump"], check=True, capture_output=True, text=True
    )

    merged = tomllib.loads(done.stdout)
    assert merged["proxy_plugins"]["imagedist"]["type"] == "snapshot"
    assert merged["proxy_plugins"]["imagedist"]["address"] == "/run/imagedist/snapshotter.sock"
    cri = merged["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["containerd"]["snapshotter"] == "imagedist"
    assert cri["containerd"]["disable_snapshot_annotations"] is False
    assert cri["registry"]["config_path"] == "/etc/containerd/certs.d"
    if before:
        assert cri["cni"]["bin_dir"] == "/usr/lib/cni"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """podman wants a run root of at most 50 characters."""
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.e2e("podman", "crun")
def test_podman_shows_our_store_and_our_mirror(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = short_path
    store = root / "store"
    store.mkdir()
    put(
        root,
        "/etc/imagedist/agent.toml",
        f'[agent]\nsite_proxies = ["http://127.0.0.1:1"]\n[storage]\nroot = "{store}"\n',
    )
    vendors = f'[storage]\ndriver = "overlay"\nrunroot = "{root}/run"\ngraphroot = "{root}/graph"\n'
    put(root, "/usr/share/containers/storage.conf", vendors)
    settings = put(root, "/containers.conf", '[engine]\nlock_type = "file"\n')
    monkeypatch.setenv("CONTAINERS_CONF", str(settings))
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(root / "etc/containers/storage.conf"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(root / "etc/containers/registries.conf.d/50-imagedist.conf"))

    apply(root, "podman")
    done = subprocess.run(
        ["unshare", "--mount", "podman", "info", "--format", "json"], check=True, capture_output=True, text=True
    )

    facts = json.loads(done.stdout)
    assert facts["store"]["graphRoot"] == str(root / "graph")
    assert str(store) in json.dumps(facts["store"]["graphOptions"])
    assert "127.0.0.1:5050/docker.io" in json.dumps(facts["registries"])
