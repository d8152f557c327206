"""The node's snapshots, opened when they are first asked for, and again until that succeeds.

Imports almost nothing before: calls wait (``early``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagedist.config import AgentConfig, SnapshotterTable
    from imagedist.locking import LockFile
    from imagedist.snapshotter.node import Node

_TURN_SECONDS = 10.0
"""How long the snapshotter before us may take to end."""


class Opening:
    """Threads may share it.

    Args:
        load: reads the configuration.
    """

    def __init__(self, load: Callable[[], AgentConfig]) -> None:
        self._load = load
        self._lock = threading.RLock()
        self._config: AgentConfig | None = None
        self._turn: LockFile | None = None
        self._node: Node | None = None

    def config(self) -> tuple[AgentConfig, SnapshotterTable]:
        """The configuration, and its table for us.

        Raises:
            ConfigError: it is wrong, or has none.
        """
        from imagedist.errors import ConfigError

        with self._lock:
            config = self._config = self._config or self._load()
        if config.snapshotter is None:
            raise ConfigError("the configuration has no table [snapshotter]: add it, with a socket for containerd")
        return config, config.snapshotter

    def node(self) -> Node:
        """The snapshots.

        Raises:
            ConfigError: as ``config``. StorageError: not now: the disk, a newer version's database, or another
                snapshotter of this store.
        """
        with self._lock:
            if self._node is None:
                self._node = self._opened()
            return self._node

    def _opened(self) -> Node:
        from imagedist.locking import LockFile
        from imagedist.overlay.lending import Lending
        from imagedist.snapshotter.node import assembled
        from imagedist.snapshotter.snapshots import DIRECTORY

        config, table = self.config()
        storage = config.storage
        lending = Lending(storage.root, is_durable=storage.durability == "image", used_by=storage.used_by)
        turn = LockFile(lending.own / DIRECTORY / "lock")
        try:
            turn.acquire(timeout_seconds=_TURN_SECONDS)
            node = assembled(config, table, lending)
        except BaseException:
            turn.close()
            raise
        self._turn = turn
        return node

    def close(self) -> None:
        with self._lock:
            if self._node is not None:
                self._node.snapshots.close()
            if self._turn is not None:
                self._turn.close()
