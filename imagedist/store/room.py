"""Room in a store: who is promised how much of the quota and the disk, and what goes for it, longest unused first."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from imagedist.errors import FullError, storage_error
from imagedist.metrics import EVICTED_BYTES, EVICTIONS, STORE_PINNED_BYTES, STORE_QUOTA_BYTES
from imagedist.oci.digest import Digest
from imagedist.store import inventory
from imagedist.store.inventory import Inventory, Item
from imagedist.store.ledger import Ledger

_LOG = logging.getLogger(__name__)

_ROUNDS = 4
"""What is evicted frees the disk only when its last reader closes it, and others fill it meanwhile."""
_DISK_LOOKS, _DISK_PAUSE_SECONDS = 20, 0.05
_SPARE_PART, _SPARE_LIMIT_BYTES = 64, 1 << 30
"""A little more goes than must, so that not every arrival counts the whole directory."""

MayEvict = Callable[[Digest], Awaitable[bool]]


class Room:
    """The room of one store.

    Args:
        quota_bytes: bound of the bytes counted by ``inventory``. None: no bound.
        headroom_bytes: kept free on the file system. None: a twentieth of it, 1 GiB at most.
        remove: takes a blob away.

    Attributes:
        may_evict: asked before a blob goes; a no spares it. The proxy stops the seed there, the agent its torrent.
        keeps: what is pinned beyond this process, read anew for each eviction. Blocking.
        others: what else may be evicted, beside blobs. Blocking.
    """

    def __init__(
        self,
        root: Path,
        ledger: Ledger,
        quota_bytes: int | None,
        headroom_bytes: int | None,
        remove: Callable[[Digest], Awaitable[int]],
    ) -> None:
        self.root = root
        self.quota_bytes = quota_bytes
        STORE_QUOTA_BYTES.set(quota_bytes or 0)
        self._headroom_bytes = headroom_bytes
        self._ledger = ledger
        self._remove = remove
        self.may_evict: MayEvict | None = None
        self.keeps: Callable[[], Container[Digest]] = frozenset
        self.others: Callable[[], Iterable[Item]] = tuple
        self._pins: Counter[Digest] = Counter()
        self._promised_bytes = 0
        self._evicting = asyncio.Lock()

    @contextmanager
    def pin(self, *digests: Digest) -> Iterator[None]:
        """Exempts blobs from eviction by this process, whether they are here yet or not."""
        self._pins.update(digests)
        try:
            yield
        finally:
            self._pins.subtract(digests)
            self._pins += Counter()  # drops what is no longer pinned

    def is_pinned(self, digest: Digest) -> bool:
        return self._pins[digest] > 0

    @asynccontextmanager
    async def promise(self, size_bytes: int, what: str) -> AsyncIterator[None]:
        """Promises room for the length of a block, for a store that only this process uses.

        Raises:
            FullError: it would not fit even if everything unpinned went.
        """
        await self.make(size_bytes, what)
        self._promised_bytes += size_bytes
        try:
            yield
        finally:
            self._promised_bytes -= size_bytes
            await asyncio.to_thread(self._give_back, size_bytes)

    async def make(self, size_bytes: int, what: str, keep: Callable[[], None] | None = None) -> None:
        """Takes room for something, evicting what was not used for the longest time.

        Args:
            keep: called in the moment in which there is room, under the ledger's lock: makes the promise visible to
                other processes. Blocking.

        Raises:
            FullError: it would not fit even if everything unpinned went. StorageError.
        """
        if await asyncio.to_thread(self._take, size_bytes, keep):
            return
        async with self._evicting:
            for _ in range(_ROUNDS):
                if await asyncio.to_thread(self._take, size_bytes, keep):
                    return
                if not await self._evict(size_bytes):
                    break
            if await asyncio.to_thread(self._take, size_bytes, keep):
                return
        raise FullError(await asyncio.to_thread(self._explain, size_bytes, what))

    async def relieve(self, size_bytes: int) -> bool:
        """The disk is full although there should be room: evicts so many bytes. Whether anything went."""
        async with self._evicting:
            return await self._evict(0, at_least_bytes=size_bytes)

    def recount(self) -> Inventory:
        """Counts all files and corrects the ledger. Blocking; about a second for 150,000 files.

        Raises:
            StorageError: a directory cannot be read.
        """
        try:
            with self._ledger.changing() as entry:
                counted = inventory.take(self.root, time.time())
                entry.set(counted.used_bytes + self._promised_bytes)
        except OSError as error:
            raise storage_error(f"read blob store {self.root}", error) from error
        return counted

    @property
    def headroom_bytes(self) -> int:
        if self._headroom_bytes is not None:
            return self._headroom_bytes
        status = os.statvfs(self.root)
        return min(1 << 30, status.f_blocks * status.f_frsize // 20)

    @property
    def free_bytes(self) -> int:
        """What the file system has left for us."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def _take(self, size_bytes: int, keep: Callable[[], None] | None) -> bool:
        with self._ledger.changing() as entry:
            if self.quota_bytes is not None and entry.usage.used_bytes + size_bytes > self.quota_bytes:
                return False
            if self._missing_on_disk(size_bytes, inventory.outstanding_bytes(self.root / "partial")) > 0:
                return False
            entry.add(size_bytes)
            if keep is not None:
                try:
                    keep()
                except BaseException:
                    entry.add(-size_bytes)
                    raise
        return True

    def _give_back(self, size_bytes: int) -> None:
        with self._ledger.changing() as entry:
            entry.add(-size_bytes)

    def _missing_on_disk(self, size_bytes: int, outstanding_bytes: int) -> int:
        headroom_bytes = self.headroom_bytes
        return size_bytes + outstanding_bytes + headroom_bytes - self.free_bytes if headroom_bytes else 0

    async def _evict(self, size_bytes: int, at_least_bytes: int = 0) -> bool:
        """Whether there may be room now: files went, or the count found fewer than the ledger."""
        wanted_bytes, items = await asyncio.to_thread(self._candidates, size_bytes, at_least_bytes)
        if wanted_bytes <= 0:
            return True
        if wanted_bytes > sum(item.size_bytes for item in items):
            return False
        if self.quota_bytes is not None:
            wanted_bytes += min(_SPARE_LIMIT_BYTES, self.quota_bytes // _SPARE_PART)
        freed_bytes, free_bytes = 0, self.free_bytes
        for item in items:
            if freed_bytes >= wanted_bytes:
                break
            freed_bytes += await self._let_go(item)
        if freed_bytes and (at_least_bytes or self.headroom_bytes):
            await self._wait_for_disk(free_bytes + freed_bytes // 2)
        return freed_bytes > 0

    async def _wait_for_disk(self, free_bytes: int) -> None:
        """An unlinked file gives its blocks back when its last reader closes it."""
        for _ in range(_DISK_LOOKS):
            if self.free_bytes >= free_bytes:
                return
            await asyncio.sleep(_DISK_PAUSE_SECONDS)

    def _candidates(self, size_bytes: int, at_least_bytes: int) -> tuple[int, list[Item]]:
        counted, keeps = self.recount(), self.keeps()
        wanted_bytes = max(at_least_bytes, self._missing_on_disk(size_bytes, counted.outstanding_bytes))
        if self.quota_bytes is not None:
            wanted_bytes = max(wanted_bytes, counted.used_bytes + self._promised_bytes + size_bytes - self.quota_bytes)
        items, pinned_bytes = [], 0
        for item in (*counted.blobs, *self.others()):
            if self._is_kept(item, keeps):
                pinned_bytes += item.size_bytes
            else:
                items.append(item)
        STORE_PINNED_BYTES.set(pinned_bytes)
        return wanted_bytes, sorted(items)

    def _is_kept(self, item: Item, keeps: Container[Digest]) -> bool:
        return item.digest is not None and (self.is_pinned(item.digest) or item.digest in keeps)

    async def _let_go(self, item: Item) -> int:
        if item.paths:
            size_bytes = sum([await asyncio.to_thread(self._ledger.unlink, path) for path in item.paths])
        else:
            assert item.digest is not None
            if self.may_evict is not None and not await self.may_evict(item.digest):
                return 0
            if self._is_kept(item, await asyncio.to_thread(self.keeps)):  # pinned while the hook was asked
                return 0
            size_bytes = await self._remove(item.digest)
        await asyncio.to_thread(self._note_eviction, size_bytes)
        _LOG.info("evicted %s (%d bytes) from %s", item.name, size_bytes, self.root)
        return size_bytes

    def _note_eviction(self, size_bytes: int) -> None:
        with self._ledger.changing() as entry:
            entry.note_eviction(size_bytes)
        EVICTIONS.inc()
        EVICTED_BYTES.inc(size_bytes)

    def _explain(self, size_bytes: int, what: str) -> str:
        used_bytes = self._ledger.read().used_bytes
        if self.quota_bytes is not None and used_bytes + size_bytes > self.quota_bytes:
            return (
                f"no room for {what} ({size_bytes} bytes) in {self.root}: {used_bytes} of {self.quota_bytes} bytes "
                "are in use; raise the quota or unpin images"
            )
        return (
            f"no room for {what} ({size_bytes} bytes) on the disk of {self.root}: {self.free_bytes} bytes are free, "
            f"{self.headroom_bytes} of them kept; free some space"
        )
