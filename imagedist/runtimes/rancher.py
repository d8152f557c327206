"""k3s and RKE2, which bring a containerd of their own and generate its configuration.

Since k3s pull request 13680 (2026) that imports ``config-v3.toml.d/*.toml``; before, only the template could be
replaced, whose base turns snapshot annotations off for every snapshotter but stargz.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagedist.errors import ConfigError
from imagedist.runtimes.asking import glance
from imagedist.runtimes.containerd import with_snapshotter
from imagedist.runtimes.hosts import hosts_edits
from imagedist.runtimes.report import Edit, Found
from imagedist.runtimes.settings import Settings

_DROP_INS = "config-v3.toml.d"
_CONTAINERD_2 = (2, 0)


@dataclass(frozen=True, slots=True)
class _Kind:
    key: str
    name: str
    directory: str
    unit: str


_K3S = _Kind("k3s", "k3s", "/var/lib/rancher/k3s/agent/etc/containerd", "k3s")
_RKE2 = _Kind("rke2", "RKE2", "/var/lib/rancher/rke2/agent/etc/containerd", "rke2-server")


def find_k3s(settings: Settings) -> Found | None:
    return _find(settings, _K3S)


def find_rke2(settings: Settings) -> Found | None:
    return _find(settings, _RKE2)


def _find(settings: Settings, kind: _Kind) -> Found | None:
    directory = settings.at(kind.directory)
    if not directory.is_dir():
        return None
    does_import = _DROP_INS in glance(directory / "config.toml")

    def change(text: str) -> str:
        if not does_import:
            raise ConfigError(
                f"would not be read: this {kind.name} does not import {_DROP_INS}; update it, or see docs/runtimes.md "
                "for what its template can do"
            )
        return with_snapshotter(text, settings, _CONTAINERD_2, hosts=f"{kind.directory}/certs.d")

    agent = "k3s-agent" if kind is _K3S else "rke2-agent"
    return Found(
        kind.key,
        kind.name,
        "containerd 2" if does_import else "without drop-ins",
        "yes, any registry",
        "yes: kubelet's pulls, by our snapshotter" if does_import else "what is unpacked already",
        f"{_DROP_INS}/50-imagedist.toml; certs.d: hosts.toml",
        edits=(
            Edit(directory / _DROP_INS / "50-imagedist.toml", change, is_snapshotters=True),
            *hosts_edits(directory / "certs.d", settings.mirror),
        ),
        restart=("systemctl", "restart", kind.unit),
        notes=(f"on a node that is no server: systemctl restart {agent}",),
        is_containerd=True,
    )
