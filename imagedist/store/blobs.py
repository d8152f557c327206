"""The committed blobs of one directory: content-addressed files, counted, pinned, evicted oldest first.

Layout: ``blobs/<algorithm>/<hex>`` holds only verified files; ``partial/`` what is still arriving
(``imagedist.store.partial``). The seeder and the swarm read the same files.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import FileIO
from pathlib import Path

from imagedist.errors import InputError, IntegrityError, NotFoundError, StorageError, storage_error
from imagedist.metrics import STORE_BYTES
from imagedist.oci.digest import Digest
from imagedist.store.files import sync_directory
from imagedist.store.reading import Span

log = logging.getLogger(__name__)

HASH_STEP_BYTES = 1 << 20
PARTIAL_KEPT_SECONDS = 24 * 3600
TOUCH_SECONDS = 3600
"""The order of use survives a restart to within this: an atime is written at most so often per blob."""

MayEvict = Callable[[Digest], Awaitable[bool]]
Removed = Callable[[Digest], Awaitable[None]]


class CommittedBlob:
    """A reader of a committed file (``OpenBlob``). It goes on reading when the blob is evicted."""

    is_verified = True

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._size_bytes = os.fstat(file.fileno()).st_size

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    async def span(self, offset: int) -> Span:
        return Span(self._file, self._size_bytes)

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        try:
            return await asyncio.to_thread(os.pread, self._file.fileno(), limit_bytes, offset)
        except OSError as error:
            raise storage_error(f"read {self._file.name!r}", error) from error

    async def wait_verified(self) -> None:
        pass

    async def close(self) -> None:
        self._file.close()


class BlobStore:
    """One directory of blobs, used by one event loop; other processes may add and read files beside it.

    Args:
        root: created when missing. Reading its directory is the only slow step, done here.
        quota_bytes: bound of the bytes counted by this store (not of the disk's). None: no bound.
        durable: every commit survives a power cut, not only a kill (an fsync per blob).
        may_evict: (may be set later) asked before a blob is unlinked to make room; a no spares it. The proxy stops the
            seed there, the agent its torrent.

    Attributes:
        removed: told after a blob was unlinked, so that what lies beside it can go, too.

    Raises:
        StorageError: the directory cannot be made or read.
    """

    def __init__(
        self,
        root: Path,
        quota_bytes: int | None = None,
        *,
        durable: bool = False,
        may_evict: MayEvict | None = None,
    ) -> None:
        self.root = root
        self.quota_bytes = quota_bytes
        self.durable = durable
        self.may_evict = may_evict
        self.removed: Removed | None = None
        self._sizes: OrderedDict[Digest, int] = OrderedDict()  # least recently used first
        self._touched: dict[Digest, float] = {}
        self._used_bytes = 0
        self._reserved_bytes = 0
        self._pins: Counter[Digest] = Counter()
        self._evicting = asyncio.Lock()
        try:
            for algorithm in ("sha256", "sha512"):
                (root / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
            (root / "partial").mkdir(exist_ok=True)
            self._scan()
        except OSError as error:
            raise storage_error(f"open blob store {root}", error) from error

    def __repr__(self) -> str:
        return f"<BlobStore {self.root} {len(self._sizes)} blobs {self.used_bytes} bytes>"

    @property
    def used_bytes(self) -> int:
        """Committed bytes and the room promised to blobs that are arriving."""
        return self._used_bytes + self._reserved_bytes

    def path(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def partial_path(self, digest: Digest) -> Path:
        return self.root / "partial" / f"{digest.algorithm}-{digest.hex}"

    def has(self, digest: Digest) -> bool:
        """Whether the blob is committed, by the file system: another process may have done it."""
        return self._stat_bytes(digest) is not None

    def size_bytes(self, digest: Digest) -> int:
        """The size of a committed blob.

        Raises:
            NotFoundError: it is not here. StorageError.
        """
        size_bytes = self._stat_bytes(digest)
        if size_bytes is None:
            raise NotFoundError(f"blob {digest} is not in {self.root}")
        return size_bytes

    async def open(self, digest: Digest) -> CommittedBlob:
        """Opens a committed blob and marks it as used.

        Raises:
            NotFoundError: it is not here. StorageError.
        """
        path = self.path(digest)
        try:
            file = await asyncio.to_thread(FileIO, path)
        except FileNotFoundError as error:
            self._forget(digest)
            raise NotFoundError(f"blob {digest} is not in {self.root}") from error
        except OSError as error:
            raise storage_error(f"open {path}", error) from error
        blob = CommittedBlob(file)
        self.admit(digest, blob.size_bytes)
        self._sizes.move_to_end(digest)
        self._touch(digest)
        return blob

    async def adopt(self, source: Path, digest: Digest, size_bytes: int) -> None:
        """Takes in a complete file of the same file system by ``link(2)``, after checking size and digest.

        The source stays: the swarm session may go on seeding from it.

        Raises:
            IntegrityError: not the bytes it should be. StorageError.
        """
        if self.has(digest):
            return
        async with self.room(size_bytes, f"blob {digest}"):
            await asyncio.to_thread(self._verify_and_link, source, digest, size_bytes)
            self.admit(digest, size_bytes)

    def admit(self, digest: Digest, size_bytes: int) -> None:
        """Counts a blob whose verified file has just been put in place."""
        if digest not in self._sizes:
            self._count(digest, size_bytes)

    async def remove(self, digest: Digest) -> None:
        """Unlinks a blob. Whoever has it open reads on.

        Raises:
            StorageError: the file cannot be unlinked.
        """
        try:
            await asyncio.to_thread(self.path(digest).unlink, missing_ok=True)
        except OSError as error:
            raise storage_error(f"remove {digest}", error) from error
        self._forget(digest)
        if self.removed is not None:
            await self.removed(digest)

    @contextmanager
    def pin(self, *digests: Digest) -> Iterator[None]:
        """Exempts blobs from eviction, whether they are here yet or not."""
        self._pins.update(digests)
        try:
            yield
        finally:
            self._pins.subtract(digests)
            self._pins += Counter()  # drops what is no longer pinned

    def is_pinned(self, digest: Digest) -> bool:
        return self._pins[digest] > 0

    @asynccontextmanager
    async def room(self, size_bytes: int, what: str) -> AsyncIterator[None]:
        """Promises room under the quota for something that is arriving, evicting the least recently used.

        Raises:
            StorageError: it would not fit even if everything unpinned went.
        """
        async with self._evicting:
            await self._make_room(size_bytes, what)
            self._reserved_bytes += size_bytes
        try:
            yield
        finally:
            self._reserved_bytes -= size_bytes

    async def _make_room(self, size_bytes: int, what: str) -> None:
        if self.quota_bytes is None:
            return
        if size_bytes <= self.quota_bytes:
            for digest in list(self._sizes):
                if self.used_bytes + size_bytes <= self.quota_bytes:
                    return
                if self.is_pinned(digest) or (self.may_evict and not await self.may_evict(digest)):
                    continue
                if not self.is_pinned(digest):  # it may have been pinned while the hook was asked
                    await self.remove(digest)
                    log.info("evicted %s from %s", digest, self.root)
        if self.used_bytes + size_bytes > self.quota_bytes:
            raise StorageError(
                f"no room for {what} ({size_bytes} bytes) in {self.root}: "
                f"{self.used_bytes} of {self.quota_bytes} bytes are in use; raise the quota"
            )

    def _stat_bytes(self, digest: Digest) -> int | None:
        try:
            size_bytes = self.path(digest).stat().st_size
        except FileNotFoundError:
            self._forget(digest)
            return None
        except OSError as error:
            raise storage_error(f"look up {digest}", error) from error
        self.admit(digest, size_bytes)
        return size_bytes

    def _verify_and_link(self, source: Path, digest: Digest, size_bytes: int) -> None:
        try:
            with FileIO(source) as file:
                actual_bytes = os.fstat(file.fileno()).st_size
                if actual_bytes != size_bytes:
                    raise IntegrityError(f"{source} has {actual_bytes} bytes, blob {digest} has {size_bytes}")
                hasher = digest.hasher()
                while chunk := file.read(HASH_STEP_BYTES):
                    hasher.update(chunk)
                if not digest.matches(hasher):
                    raise IntegrityError(f"{source} does not have the digest {digest}")
                if self.durable:
                    os.fsync(file.fileno())
            try:
                os.link(source, self.path(digest), follow_symlinks=False)
            except FileExistsError:
                return
            if self.durable:
                sync_directory(self.path(digest).parent)
        except OSError as error:
            raise storage_error(f"take {source} into {self.root}", error) from error

    def _scan(self) -> None:
        """Counts what is here; drops what no commit of ours can have made, and forgotten partial files."""
        found: list[tuple[float, Digest, int]] = []
        for directory in (self.root / "blobs").iterdir():
            for entry in os.scandir(directory):
                try:
                    digest = Digest.parse(f"{directory.name}:{entry.name}")
                except InputError:
                    digest = None
                if digest is None or not entry.is_file(follow_symlinks=False):
                    log.warning("dropping %s: not a blob", entry.path)
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                    continue
                stat = entry.stat(follow_symlinks=False)
                found.append((stat.st_atime, digest, stat.st_size))
        for _, digest, size_bytes in sorted(found):
            self._count(digest, size_bytes)
        oldest = time.time() - PARTIAL_KEPT_SECONDS
        for entry in os.scandir(self.root / "partial"):
            if entry.stat(follow_symlinks=False).st_mtime < oldest:
                os.unlink(entry.path)

    def _count(self, digest: Digest, size_bytes: int) -> None:
        self._sizes[digest] = size_bytes
        self._used_bytes += size_bytes
        STORE_BYTES.set(self._used_bytes)

    def _forget(self, digest: Digest) -> None:
        self._used_bytes -= self._sizes.pop(digest, 0)
        self._touched.pop(digest, None)
        STORE_BYTES.set(self._used_bytes)

    def _touch(self, digest: Digest) -> None:
        now = time.monotonic()
        if now - self._touched.get(digest, -TOUCH_SECONDS) < TOUCH_SECONDS:
            return
        self._touched[digest] = now
        path = self.path(digest)
        try:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except OSError:
            pass  # only the order of eviction after a restart depends on it
