"""k3s and RKE2: a drop-in where their containerd imports it, else a reason; the mirror either way by hosts.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from imagedist.errors import ConfigError
from imagedist.runtimes.plan import plan
from imagedist.runtimes.rancher import find_k3s, find_rke2
from imagedist.runtimes.settings import Settings
from tests.runtimes.trees import put

K3S = "/var/lib/rancher/k3s/agent/etc/containerd"
RKE2 = "/var/lib/rancher/rke2/agent/etc/containerd"


def test_where_drop_ins_are_imported_ours_is_written_beside_the_mirror(tmp_path: Path) -> None:
    put(tmp_path, f"{RKE2}/config.toml", f'version = 3\nimports = ["{RKE2}/config-v3.toml.d/*.toml"]\n')
    found = find_rke2(Settings(root=tmp_path))
    assert found is not None
    files = {str(change.path.relative_to(tmp_path)): change.after.decode() for change in plan([found], ()).files}
    drop_in = tomllib.loads(files[f"{RKE2[1:]}/config-v3.toml.d/50-imagedist.toml"])
    images = drop_in["plugins"]["io.containerd.cri.v1.images"]
    assert (images["snapshotter"], images["disable_snapshot_annotations"]) == ("imagedist", False)
    assert images["registry"]["config_path"] == f"{RKE2}/certs.d"
    assert f"{RKE2[1:]}/certs.d/_default/hosts.toml" in files


def test_an_older_one_is_told_that_nothing_would_read_it(tmp_path: Path) -> None:
    put(tmp_path, f"{K3S}/config.toml", "version = 3\n")
    found = find_k3s(Settings(root=tmp_path))
    assert found is not None
    with pytest.raises(ConfigError, match=r"50-imagedist\.toml would not be read: this k3s does not import"):
        plan([found], ())


def test_a_machine_without_them_has_none(tmp_path: Path) -> None:
    assert find_k3s(Settings(root=tmp_path)) is None
