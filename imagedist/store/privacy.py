"""Which blobs came through an upstream with credentials: notes beside the store that outlive the process.

A blob is private by where its bytes came from, not by the upstream that a request names. ``private/<algorithm>-<hex>``
names the owners that are known to have it, one a line: ``upstream`` where one service account reads for all,
``upstream/repository`` where each user needs a grant. No note: everyone may have the blob. A note is written before the
first byte can be read, goes when a public upstream says that it has the blob as well, and goes behind the blob when
that is evicted. A note that was cut short names nobody: still private.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from pathlib import Path

from imagedist.errors import InputError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore

_MAX_OWNERS = 256
"""Of one blob. Who is not noted any more is asked about again: a base layer may be in thousands of repositories."""

_KEPT_SECONDS = 24 * 3600.0
"""A private blob may pass through another process without being stored: its note stays meanwhile."""


class PrivateBlobs:
    """The notes of one store. Another process of this host may write and read them as well.

    Raises:
        StorageError: the notes cannot be read; on making it, too, when notes of blobs that never came are dropped.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._directory = store.root / "private"
        self._changing = asyncio.Lock()
        try:
            self._directory.mkdir(exist_ok=True)
            for entry in os.scandir(self._directory):
                try:
                    digest = Digest.parse(entry.name.replace("-", ":", 1))
                except InputError:
                    continue  # being written aside by another process, or left by a killed one: inventory takes it
                with contextlib.suppress(FileNotFoundError):  # another process was quicker
                    if entry.stat().st_mtime < time.time() - _KEPT_SECONDS:
                        self._drop_unless_here(digest)
        except OSError as error:
            raise storage_error(f"read the notes of private blobs in {self._directory}", error) from error

    def has(self, digest: Digest) -> bool:
        """Whether the blob is private. One stat."""
        return self._path(digest).exists()

    async def owners(self, digest: Digest) -> frozenset[str] | None:
        """The owners that have the blob (``UpstreamRepository.owner``); None: it is not private, which is one stat."""
        if not self.has(digest):
            return None
        return await asyncio.to_thread(self._read, digest)

    async def add(self, digest: Digest, owner: str) -> None:
        """Notes that a private upstream, or a repository of one, has the blob."""
        async with self._changing:
            await asyncio.to_thread(self._add, digest, owner)

    async def lift(self, digest: Digest) -> None:
        """A public upstream has the blob."""
        async with self._changing:
            if self.has(digest):
                await asyncio.to_thread(self._unlink, digest)

    async def forget(self, digest: Digest) -> None:
        """The blob was evicted. When it is on its way again, the note may already be that of the new bytes."""
        async with self._changing:
            await asyncio.to_thread(self._drop_unless_here, digest)

    def _read(self, digest: Digest) -> frozenset[str] | None:
        path = self._path(digest)
        try:
            return frozenset(path.read_text().split())
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            return frozenset()
        except OSError as error:
            raise storage_error(f"read {path}", error) from error

    def _add(self, digest: Digest, owner: str) -> None:
        owners = self._read(digest) or frozenset()
        if owner not in owners:
            kept = random.sample(sorted(owners), min(len(owners), _MAX_OWNERS - 1))
            lines = "".join(f"{each}\n" for each in sorted({*kept, owner}))
            self._store.ledger.write(self._path(digest), lines.encode(), durable=True)

    def _drop_unless_here(self, digest: Digest) -> None:
        # In this order: between the two looks a partial file may become a blob, but never the other way round.
        if not self._store.partial_path(digest).exists() and not self._store.path(digest).exists():
            self._unlink(digest)

    def _unlink(self, digest: Digest) -> None:
        self._store.ledger.unlink(self._path(digest))

    def _path(self, digest: Digest) -> Path:
        return self._directory / f"{digest.algorithm}-{digest.hex}"
