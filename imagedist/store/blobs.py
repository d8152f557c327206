"""The committed blobs of one directory: content-addressed files, put there verified, opened, removed.

Layout: ``blobs/<algorithm>/<hex>`` holds only verified files; ``partial/`` what is still arriving
(``imagedist.store.partial``). The seeder and the swarm read the same files. docs/site-store.md has all of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from imagedist.errors import IntegrityError, NotFoundError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.files import is_open_to_others
from imagedist.store.format import claim_format, refuse_foreign
from imagedist.store.inventory import ALGORITHMS
from imagedist.store.ledger import Ledger
from imagedist.store.partial import Partial
from imagedist.store.reading import Span
from imagedist.store.room import MayEvict, Room
from imagedist.store.unsynced import Unsynced, is_right
from imagedist.threads import settled

_LOG = logging.getLogger(__name__)

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
    """One directory of blobs, which several processes may use at a time.

    Args:
        root: created when missing. Counting its files is the only slow step, done here.
        quota_bytes, headroom_bytes: as ``Room``.
        may_evict: (may be set later, at ``space``) asked before a blob is unlinked to make room.

    Attributes:
        space: the room there is: pins, promises, evictions.
        removed: those are told after a blob was unlinked, so that what lies beside it can go, too.

    Raises:
        StorageError: the directory cannot be made or read, is somebody else's, or a newer version made it.
    """

    def __init__(
        self,
        root: Path,
        quota_bytes: int | None = None,
        *,
        headroom_bytes: int | None = 0,
        may_evict: MayEvict | None = None,
    ) -> None:
        self.root = root
        self.removed: list[Removed] = []
        refuse_foreign(root)
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o750)  # private images are in it
            for algorithm in ALGORITHMS:
                (root / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
            for folder in ("partial", "unsynced"):
                (root / folder).mkdir(exist_ok=True)
            is_open = is_open_to_others(root)
        except OSError as error:
            raise storage_error(f"open blob store {root}", error) from error
        claim_format(root)
        if is_open:
            _LOG.warning("every user of this machine can read the blobs in %s: chmod 750 %s", root, root)
        self.ledger = Ledger(root / "usage")
        self.space = Room(root, self.ledger, quota_bytes, headroom_bytes, self.remove)
        self.space.may_evict = may_evict
        self._unsynced = Unsynced(root)
        for digest in self._unsynced.wrong(self.path):
            self.ledger.unlink(self.path(digest))
            self._unsynced.forget(digest)
        self.space.recount()

    def __repr__(self) -> str:
        return f"<BlobStore {self.root} {self.used_bytes} bytes>"

    @property
    def used_bytes(self) -> int:
        """Bytes of the files and the room promised to what is arriving, of all processes."""
        return self.ledger.read().used_bytes

    def count(self) -> int:
        """How many blobs are committed. Blocking. Raises StorageError."""
        try:
            return sum(len(os.listdir(self.root / "blobs" / algorithm)) for algorithm in ALGORITHMS)
        except OSError as error:
            raise storage_error(f"count the blobs of {self.root}", error) from error

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
        try:
            return CommittedBlob(await settled(asyncio.to_thread(_open, self.path(digest)), FileIO.close))
        except FileNotFoundError as error:
            raise NotFoundError(f"blob {digest} is not in {self.root}") from error
        except OSError as error:
            raise storage_error(f"open {self.path(digest)}", error) from error

    async def adopt(self, source: Path, digest: Digest, size_bytes: int) -> None:
        """Takes in a complete file of the same file system by ``link(2)``, after checking size and digest.

        The source stays: the swarm session may go on seeding from it.

        Raises:
            IntegrityError: not the bytes it should be. FullError: no room. StorageError.
        """
        if self.has(digest):
            return
        await asyncio.to_thread(_verify, source, digest, size_bytes)
        await self.space.make(size_bytes, f"blob {digest}", lambda: self._link(source, digest))

    async def promise(self, partial: Partial, size_bytes: int) -> None:
        """Promises room to a blob that is arriving, evicting if need be; states its size for other processes.

        Raises:
            FullError: no room. StorageError.
        """
        what, missing_bytes = f"blob {partial.digest}", size_bytes - partial.found_bytes
        await self.space.make(missing_bytes, what, lambda: partial.state_size(size_bytes))

    def commit(self, partial: Partial) -> None:
        """Checks the digest, then puts an arrived blob in its place. Blocking.

        Raises:
            IntegrityError: wrong bytes. StorageError.
        """
        partial.check()
        final = self.path(partial.digest)
        self._unsynced.note(partial.digest)
        partial.commit(final)
        self._unsynced.sync_soon(partial.digest, final)

    def drop(self, partial: Partial) -> None:
        """Removes what has arrived and gives back the room. Blocking. Raises StorageError."""
        with self.ledger.changing() as entry:
            counted_bytes = partial.counted_bytes
            partial.drop()
            entry.add(-counted_bytes)

    def give_away(self, digest: Digest, path: Path) -> None:
        """Moves what an earlier fetch left of a blob to ``path``, if nobody fetches it now. Blocking.

        Raises:
            StorageError.
        """
        if not self.partial_path(digest).exists():
            return
        partial = Partial.claim(self.partial_path(digest), digest)
        if partial is not None:
            with self.ledger.changing() as entry:
                counted_bytes = partial.counted_bytes
                partial.move(path)
                entry.add(-counted_bytes)

    def release(self, partial: Partial) -> None:
        """Keeps what has arrived for the next fetch, and gives back the rest of the room. Blocking."""
        if partial.present_bytes == 0 and partial.promised_bytes is None:  # nobody follows it
            self.drop(partial)
            return
        with self.ledger.changing() as entry:
            outstanding_bytes = partial.outstanding_bytes
            partial.release()
            entry.add(-outstanding_bytes)

    async def remove(self, digest: Digest) -> int:
        """Unlinks a blob; returns its bytes. Whoever has it open reads on.

        Raises:
            StorageError: the file cannot be unlinked.
        """
        size_bytes = await asyncio.to_thread(self.ledger.unlink, self.path(digest))
        for told in self.removed:
            await told(digest)
        return size_bytes

    def close(self) -> None:
        """Returns when what was committed is on the disk. Blocking; a process that is killed needs it not."""
        self._unsynced.close()

    def _stat_bytes(self, digest: Digest) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(f"look up {digest}", error) from error

    def _link(self, source: Path, digest: Digest) -> None:
        self._unsynced.note(digest)
        try:
            os.link(source, self.path(digest), follow_symlinks=False)
            os.utime(self.path(digest))
        except FileExistsError:
            pass
        except OSError as error:
            raise storage_error(f"take {source} into {self.root}", error) from error
        self._unsynced.sync_soon(digest, self.path(digest))


def _open(path: Path) -> FileIO:
    file = FileIO(path)
    with suppress(OSError):  # only the order of eviction depends on it
        os.utime(file.fileno(), ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
    return file


def _verify(source: Path, digest: Digest, size_bytes: int) -> None:
    try:
        actual_bytes = source.stat(follow_symlinks=False).st_size
        if actual_bytes != size_bytes:
            raise IntegrityError(f"{source} has {actual_bytes} bytes, blob {digest} has {size_bytes}")
        if not is_right(source, digest):
            raise IntegrityError(f"{source} does not have the digest {digest}")
    except OSError as error:
        raise storage_error(f"take {source}", error) from error
