"""Whether every snapshot has what it stands for. Looks only; the snapshotter may run or not."""

from __future__ import annotations

from pathlib import Path

from imagedist.overlay.lending import Lending
from imagedist.snapshotter.directories import Directories
from imagedist.snapshotter.records import Records
from imagedist.snapshotter.snapshots import DATABASE, DIRECTORY


def problems(root: Path) -> tuple[int, list[str]]:
    """Compares the snapshots of the store at ``root`` with its layers and directories.

    Returns:
        How many snapshots there are, and what is wrong, one line each.

    Raises:
        StorageError: the database or the store cannot be read.
    """
    directory = root / "imagedist" / DIRECTORY
    if not (directory / DATABASE).exists():
        return 0, []
    lending = Lending(root, is_durable=False)
    records = Records(directory / DATABASE, is_read_only=True)
    try:
        snapshots = records.all()
    finally:
        records.close()
    directories, lent, found = Directories(directory, lending.links), lending.names(), list[str]()
    for one in snapshots:
        if one.layer_id:
            if not lending.diff(one.layer_id).is_dir():
                found.append(f"snapshot {one.name}: its layer {one.layer_id[:12]} is gone; remove the image")
            elif one.layer_id not in lent:
                found.append(f"snapshot {one.name}: layer {one.layer_id[:12]} is not lent; restart the snapshotter")
        elif not (directories.at(one.id) / "fs").is_dir():
            found.append(f"snapshot {one.name}: its directory {one.id} is gone; remove it (ctr snapshots rm)")
    return len(snapshots), found
