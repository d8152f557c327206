"""Pieces that earlier processes left: kept beside the cache for a while, and hashed again before they are used.

While a blob arrives by the swarm its file is ``swarm/<hex>``, where room is promised to it. What a process that ended
or was killed left there lies in ``unfinished/<hex>`` from the next start on. That is counted like a blob, and goes for
one like the longest unused of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.inventory import Item

KEPT_SECONDS = 24 * 3600.0
_LEAST_PART = 8
"""Files of which less than this part is there are dropped: to hash holes takes longer than to fetch what is there."""
_BLOCK_BYTES = 512


class Unfinished:
    """
    Args:
        kept_seconds: since the last piece came.

    Raises:
        StorageError: the directory cannot be made.
    """

    def __init__(self, store: BlobStore, kept_seconds: float) -> None:
        self._store = store
        self._kept_seconds = kept_seconds
        self._directory = store.root / "unfinished"
        try:
            self._directory.mkdir(exist_ok=True)
            self._drop_old()
        except OSError as error:
            raise storage_error("look through unfinished blobs", error) from error
        store.space.others = self._items

    def has(self, digest: Digest) -> bool:
        return self._path(digest).exists()

    def keep(self, digest: Digest, path: Path) -> bool:
        """Takes in what lies at ``path``, or drops it: too old, too little, or no room. Whether it is kept. Blocking.

        Raises:
            StorageError: it can be neither kept nor dropped.
        """
        quota_bytes = self._store.space.quota_bytes
        try:
            stat = path.stat(follow_symlinks=False)
            is_worth_it = self._is_young(stat) and stat.st_blocks * _BLOCK_BYTES * _LEAST_PART >= stat.st_size
            with self._store.ledger.changing() as entry:
                if is_worth_it and (quota_bytes is None or entry.usage.used_bytes + stat.st_size <= quota_bytes):
                    entry.add(stat.st_size)
                    path.rename(self._path(digest))
                    return True
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"keep the pieces of {digest}", error) from error
        return False

    def give(self, digest: Digest, path: Path, *, with_stream: bool = True) -> None:
        """Puts what there is of a blob at ``path``, for the session to hash: pieces, or else the first bytes, which had
        come by HTTP. Blocking.

        Args:
            with_stream: or else leaves what came by HTTP alone: its readers' bytes are still to be compared with it.

        Raises:
            StorageError.
        """
        found = self._path(digest)
        try:
            with self._store.ledger.changing() as entry:
                size_bytes = found.stat(follow_symlinks=False).st_size
                found.rename(path)
                entry.add(-size_bytes)
        except FileNotFoundError:  # there is none, or it went for another blob
            if with_stream:
                self._store.give_away(digest, path)
        except OSError as error:
            raise storage_error(f"take up the pieces of {digest}", error) from error

    def _drop_old(self) -> None:
        for path in list(self._directory.iterdir()):
            if not self._is_young(path.stat(follow_symlinks=False)) or self._store.has(Digest("sha256", path.name)):
                self._store.ledger.unlink(path)

    def _is_young(self, stat: os.stat_result) -> bool:
        return stat.st_mtime > time.time() - self._kept_seconds

    def _items(self) -> Iterable[Item]:
        for entry in os.scandir(self._directory):
            try:
                stat = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # wanted again this moment
            yield Item(stat.st_mtime, stat.st_size, f"unfinished {entry.name}", None, (Path(entry.path),))

    def _path(self, digest: Digest) -> Path:
        return self._directory / digest.hex
