"""What one node's snapshotter is made of."""

from __future__ import annotations

from dataclasses import dataclass

from imagedist.config import AgentConfig, SnapshotterTable
from imagedist.overlay.lending import Lending
from imagedist.snapshotter.keeping import Keeping
from imagedist.snapshotter.pulls import Pulls
from imagedist.snapshotter.remote import Remote
from imagedist.snapshotter.snapshots import Snapshots


@dataclass(frozen=True)
class Node:
    """The snapshots, and where their layers come from."""

    snapshots: Snapshots
    remote: Remote
    keeping: Keeping
    pulls: Pulls

    def clean(self) -> None:
        """What ``Cleanup`` and the start do: away with what no snapshot needs."""
        self.snapshots.clean()
        if self.snapshots.returned.is_set():
            self.snapshots.returned.clear()
            if not self.keeping.collect(self.pulls):
                self.snapshots.returned.set()


def assembled(config: AgentConfig, table: SnapshotterTable, lending: Lending) -> Node:
    """A node's snapshotter, cleaned of what killed processes left. The caller is the store's only one.

    Raises:
        StorageError: the disk, or a newer version's database.
    """
    snapshots = Snapshots(lending)
    try:
        snapshots.clean()
    except BaseException:
        snapshots.close()
        raise
    keeping = Keeping(snapshots.records, lending)
    patience_seconds, wait_seconds = table.patience.total_seconds(), table.wait.total_seconds()
    pulls = Pulls(config.agent.socket, patience_seconds, wait_seconds, keeping.begin)
    return Node(snapshots, Remote(snapshots, lending, pulls), keeping, pulls)
