"""An image sent to a backup: brought into the site if something of it is missing, then blobs, children, the tag."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import UnacceptableError
from imagedist.metrics import BACKUP_BLOBS, BACKUP_BYTES
from imagedist.oci.client import FetchedManifest
from imagedist.oci.contents import parse_contents
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from seeder.backup.registry import BackupRegistry
from seeder.backup.rows import Rows
from seeder.sync.bring import Brings, Progress
from seeder.sync.gather import all_of
from seeder.sync.proxy import SiteProxy

_DEPTH = 4
"""An index of indexes of manifests; one that names itself ends here."""


class Images:
    """Those of one backup.

    Args:
        store: the site's blob store, which is read.
        rate: caps what is sent.
    """

    def __init__(
        self, registry: BackupRegistry, rows: Rows, proxy: SiteProxy, brings: Brings, store: Path, rate: ChangingRate
    ) -> None:
        self._registry = registry
        self._rows = rows
        self._proxy = proxy
        self._brings = brings
        self._store = store
        self._rate = rate
        self._slots = asyncio.Semaphore(registry.table.blobs_at_once)
        self._sending: dict[Digest, asyncio.Lock] = {}

    async def send(
        self, name: str, tag: str, digest: Digest, platforms: Collection[Platform], progress: Progress
    ) -> None:
        """Returns when the tag means the digest there, and all of it is there.

        Raises:
            NotFoundError, SourceError, IntegrityError, UnacceptableError: something could not be had, or sent.
            StorageError.
        """
        upstream, _, repository = name.partition("/")
        skipped = await self._brings.bring(upstream, repository, digest, platforms, Progress())
        manifests, blobs = await self._read(name, digest, frozenset(skipped))
        progress.blobs = len(blobs)
        await all_of([self._send_blob(name, blob, progress) for blob in blobs])
        for each, manifest in reversed(manifests.items()):  # children before those that name them
            children = {child.digest for child in parse_contents(manifest.body, str(each)).children}
            reference = tag if each == digest else str(each)
            await self._registry.send_manifest(name, reference, manifest, is_whole=children.isdisjoint(skipped))

    async def _read(
        self, name: str, digest: Digest, skipped: Collection[Digest]
    ) -> tuple[dict[Digest, FetchedManifest], list[Descriptor]]:
        """The image's manifests, those that name others first, and its blobs."""
        upstream, _, repository = name.partition("/")
        manifests: dict[Digest, FetchedManifest] = {}
        blobs: dict[Digest, Descriptor] = {}
        wave = [digest]
        for _ in range(_DEPTH):
            following: list[Digest] = []
            for each in wave:
                if each in skipped or each in manifests:
                    continue
                found = manifests[each] = await self._proxy.fetched_manifest(upstream, repository, each)
                await self._check_may_send(name, each, "manifests")
                contents = parse_contents(found.body, f"{name}@{each}")
                following += [child.digest for child in contents.children]
                blobs.update({blob.digest: blob for blob in contents.blobs})
            wave = following
        return manifests, list(blobs.values())

    async def _send_blob(self, name: str, blob: Descriptor, progress: Progress) -> None:
        async with self._slots:
            await self._check_may_send(name, blob.digest, "blobs")
            turn = self._sending.setdefault(blob.digest, asyncio.Lock())
            async with turn:  # two images that share it: one sends, the other mounts
                was_there = await self._send_once(name, blob, progress)
            if not turn.locked():
                self._sending.pop(blob.digest, None)
        progress.blobs_done += 1
        BACKUP_BLOBS.labels(outcome="present" if was_there else "sent").inc()

    async def _send_once(self, name: str, blob: Descriptor, progress: Progress) -> bool:
        digest, repository = blob.digest, self._registry.repository(name)
        path = self._store / "blobs" / digest.algorithm / digest.hex

        async def pace(size_bytes: int) -> None:
            await self._rate.take(size_bytes)
            if digest not in progress.arriving:
                progress.bytes_total += blob.size_bytes
            progress.arriving[digest] = progress.arriving.get(digest, 0) + size_bytes
            BACKUP_BYTES.inc(size_bytes)

        async def note(upload: str) -> None:
            await self._rows.put_blob(digest, repository, upload)

        known = await self._rows.blob(digest)
        was_there = await self._registry.send_blob(name, digest, path, known, pace, note)
        await self._rows.put_blob(digest, repository)
        if digest in progress.arriving:
            progress.arriving.pop(digest)
            progress.bytes_done += blob.size_bytes
        return was_there

    async def _check_may_send(self, name: str, digest: Digest, kind: str) -> None:
        """Raises UnacceptableError: it is private, and the backup is not for such. SourceError."""
        if self._registry.table.private or await self._proxy.is_for_everyone(name.partition("/")[2], digest, kind):
            return
        raise UnacceptableError(
            f"{name}@{digest} is of a registry with credentials, and whoever may read {self._registry} could read it: "
            f"if that is meant, set backups.{self._registry.name}.private = true"
        )
