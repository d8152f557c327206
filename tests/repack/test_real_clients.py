"""What real clients make of a repacked image: docker-registry takes it, skopeo and podman read it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Process, answers, succeed
from tests.support import layers, layouts
from tests.support.ports import free_port

pytestmark = pytest.mark.e2e("docker-registry", "skopeo", "podman")

BUILT = layers.image(
    [
        [layers.directory("etc"), layers.file("etc/a", b"lower" * 100_000), layers.file("etc/gone")],
        [layers.whiteout("etc/gone"), layers.file("etc/b", b"upper")],
    ]
)
_CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    config = tmp_path / "config.yml"
    config.write_text(_CONFIG.format(root=tmp_path / "registry", port=port))
    process = Process(["docker-registry", "serve", str(config)], tmp_path / "registry.log")
    try:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/v2/"), "docker-registry")
        yield f"127.0.0.1:{port}"
    finally:
        process.stop()


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return layouts.write(BUILT, tmp_path / "original", "1").directory


@pytest.mark.parametrize("compression", ["pgzip", "zstd"])
def test_repacked_image_is_the_same_image_to_real_clients(
    registry: str, original: Path, tmp_path: Path, compression: str
) -> None:
    command = [sys.executable, "-m", "imagedist", "repack", "--plain-http", "--compression", compression]
    succeed([*command, f"oci:{original}:1", f"{registry}/team/app:1"])

    shown = succeed(["skopeo", "inspect", "--tls-verify=false", "--config", f"docker://{registry}/team/app:1"])
    assert json.loads(shown.stdout)["rootfs"]["diff_ids"] == [str(layer.diff_id) for layer in BUILT.image.layers]

    with tempfile.TemporaryDirectory() as store:  # podman wants a short path
        podman = ["podman", "--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs"]
        pulled = succeed([*podman, "pull", "--quiet", "--tls-verify=false", f"{registry}/team/app:1"])
    assert pulled.stdout.strip() == BUILT.image.id.hex

    succeed([*command, f"{registry}/team/app:1", f"oci:{tmp_path / 'back'}:1", "--compression", "gzip"])
    succeed(["skopeo", "copy", f"oci:{tmp_path / 'back'}:1", f"dir:{tmp_path / 'dir'}"])
