"""What is written into the runtimes' configuration: where our agent, snapshotter and store are on this node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SNAPSHOTTER = "imagedist"
"""The name by which containerd knows our snapshotter."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One node.

    Attributes:
        root: the tree whose ``/etc`` and ``/var/lib`` are meant; ``/`` for this machine.
        mirror: ``host:port`` of the agent's mirror.
        socket: the snapshotter's.
        store: the image store, as the node sees it.
        upstreams: registry → its path prefix at the site's proxy; for runtimes that need one entry per registry.
    """

    root: Path = Path("/")
    mirror: str = "127.0.0.1:5050"
    socket: Path = Path("/run/imagedist/snapshotter.sock")
    store: Path = Path("/var/lib/imagedist/storage")
    upstreams: Mapping[str, str] = field(default_factory=lambda: {"docker.io": "docker.io"})

    def at(self, path: str | Path) -> Path:
        """Where an absolute path of the node lies below ``root``."""
        return self.root / str(path).lstrip("/")
