"""The containerds: Debian bookworm's own, and newer ones that ``deploy/newer-runtimes.sh`` unpacked beside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

_PROJECT = Path(__file__).parents[2]
_UNPACKED = _PROJECT / "build/debian"
PEERS = _PROJECT / "build/peers/bin"
"""What ``deploy/peers.sh`` built: runtimes that Debian has not."""


_MORE = """
[plugins."{table}"]
restrict_oom_score_adj = true  # it lets nobody lower it
[plugins."{table}".cni]
conf_dir = "/run/cni"
{programs}
"""


@dataclass(frozen=True)
class Release:
    """A containerd of one Debian release, with what else comes from there.

    Attributes:
        version: its first numbers. suite: Debian's name; empty: what is installed.
        shipped: the configuration that is for it. runtime_table: of CRI's settings for pods.
    """

    version: str
    suite: str
    shipped: Path
    runtime_table: str

    @property
    def config(self) -> str:
        """What is shipped, and what a test machine needs."""
        programs = 'bin_dirs = ["/run/cni"]' if self is V2 else 'bin_dir = "/run/cni"'
        return self.shipped.read_text() + _MORE.format(table=self.runtime_table, programs=programs)

    @property
    def usr(self) -> Path | None:
        """What is to be laid over ``/usr``."""
        return _UNPACKED / self.suite / "usr" if self.suite else None

    def __str__(self) -> str:
        return f"containerd {self.version}"


_SHIPPED = _PROJECT / "deploy/client-config/containerd"
V1_6 = Release("1.6", "", _SHIPPED / "config-1.6.toml", "io.containerd.grpc.v1.cri")
V1_7 = Release("1.7", "trixie", _SHIPPED / "config-1.7.toml", "io.containerd.grpc.v1.cri")
V2 = Release("2", "forky", _SHIPPED / "config-2.toml", "io.containerd.cri.v1.runtime")

RELEASES = [
    pytest.param(V1_6, id="1.6"),
    pytest.param(V1_7, id="1.7", marks=pytest.mark.e2e("containerd/trixie")),
    pytest.param(V2, id="2", marks=pytest.mark.e2e("containerd/forky")),
]
"""For ``pytest.mark.parametrize``."""
