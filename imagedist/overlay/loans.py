"""Layers lent to a program that keeps records of its own (containerd, by our snapshotter): nobody removes them.

A loan is a symlink to the layer, ``lent/<short link>``: the borrower mounts layers by these names, which all fit into
one mount's options, and the kernel's mount table shows whose they are. Names of another form are the borrower's own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.overlay.records import fsync_directory

_LAYER = re.compile(r"\.\./\.\./overlay/(?P<id>[0-9a-f]{64})/diff\Z")


class Loans:
    """The loans of one store.

    A loan is made and given back under the layer's ``use`` lock (``ChainLocks``) or by whoever knows that the loan
    is there already; whoever removes layers has locked them, and asks ``lent`` then.

    Args:
        directory: for the symlinks, two levels below the store's root.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def lent(self) -> frozenset[str]:
        """The ids of all lent layers.

        Raises:
            StorageError: not readable.
        """
        return frozenset(self.names())

    def names(self) -> dict[str, str]:
        """Every loan: layer id → the symlink's name."""
        found: dict[str, str] = {}
        try:
            for entry in os.scandir(self.directory):
                loan = _LAYER.match(os.readlink(entry.path)) if entry.is_symlink() else None
                if loan is not None:
                    found[loan["id"]] = entry.name
        except FileNotFoundError:
            return {}  # no store yet
        except OSError as error:
            raise storage_error("read which layers are lent", error) from error
        return found

    def lend(self, layer_id: str, name: str, is_durable: bool) -> None:
        """Makes the loan, unless it is there. On the disk before this returns, if ``is_durable``.

        Raises:
            StorageError: the disk failed.
        """
        link = self.directory / name
        try:
            if not link.is_symlink():
                link.symlink_to(f"../../overlay/{layer_id}/diff")
                if is_durable:
                    fsync_directory(self.directory)
        except OSError as error:
            raise storage_error(f"lend layer {layer_id}", error) from error

    def take_back(self, name: str) -> None:
        """Ends a loan, or whatever else has this name; harmless when there is none."""
        try:
            (self.directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"end the loan {name}", error) from error
