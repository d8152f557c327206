"""One partial file on disk: locked by whoever fetches it, hashed as it grows, renamed when it is right. Blocking.

The ``flock`` on the file elects one fetcher among all processes of a machine (design.md §5) and dies with it.
Beside the bytes lies ``<name>.size``, the blob's size as its source stated it, for followers in other processes.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from imagedist.errors import IntegrityError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.files import sync_directory, write_aside

_REHASH_STEP_BYTES = 1 << 20
_CLAIM_ATTEMPTS = 8


def size_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.size")


def stated_size(partial: Path) -> int | None:
    """The blob's size as another process's source stated it; None while that is not known."""
    try:
        text = size_path(partial).read_text()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


class Partial:
    """A partial file that this process holds the lock of. Made by ``claim``."""

    def __init__(self, path: Path, digest: Digest, descriptor: int) -> None:
        self._path = path
        self._digest = digest
        self._descriptor = descriptor
        self._hasher = digest.hasher()
        # a cancelled task leaves its thread writing: the descriptor is closed only behind it
        self._busy = threading.RLock()
        self.present_bytes = 0

    @classmethod
    def claim(cls, path: Path, digest: Digest) -> Partial | None:
        """Takes the lock, creating the file if need be. None: another fetcher holds it.

        Raises:
            StorageError: the file cannot be made.
        """
        try:
            for _ in range(_CLAIM_ATTEMPTS):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_still(path, descriptor):
                        return cls(path, digest, descriptor)
                except BlockingIOError:
                    os.close(descriptor)
                    return None
                # the file was committed or dropped between open and lock: look again
                os.close(descriptor)
        except OSError as error:
            raise storage_error(f"create {path}", error) from error
        return None

    def inode(self) -> int:
        return os.fstat(self._descriptor).st_ino

    def take_over(self) -> int:
        """Hashes the bytes that an earlier fetch left, so that the next goes on behind them. Returns their number."""
        try:
            while self._take_over_step():
                pass
        except OSError as error:
            raise storage_error(f"read {self._path}", error) from error
        return self.present_bytes

    def _take_over_step(self) -> bool:
        with self._busy:
            if self._descriptor < 0:  # the task was cancelled
                return False
            chunk = os.pread(self._descriptor, _REHASH_STEP_BYTES, self.present_bytes)
            self._hasher.update(chunk)
            self.present_bytes += len(chunk)
        return bool(chunk)

    def state_size(self, size_bytes: int) -> None:
        write_aside(size_path(self._path), str(size_bytes).encode())

    def append(self, chunk: bytes | memoryview) -> None:
        """Writes and hashes the next bytes.

        Raises:
            StorageError: the disk is full or failed; names the directory.
        """
        view = memoryview(chunk)
        with self._busy:
            self._append(view)

    def _append(self, view: memoryview) -> None:
        try:
            while view:
                written = os.pwrite(self._descriptor, view, self.present_bytes)
                self._hasher.update(view[:written])
                self.present_bytes += written
                view = view[written:]
        except OSError as error:
            raise storage_error(f"write blob {self._digest} to {self._path.parent}", error) from error

    def check(self) -> None:
        """
        Raises:
            IntegrityError: what has arrived does not have the digest.
        """
        if not self._digest.matches(self._hasher):
            raise IntegrityError(f"blob {self._digest} arrived with wrong bytes: its digest does not match")

    def commit(self, final: Path, *, durable: bool) -> None:
        """Checks the digest, then renames into place and gives up the lock.

        Raises:
            IntegrityError: wrong bytes. StorageError.
        """
        self.check()
        with self._busy:  # nobody takes over a file that is being renamed
            self._commit(final, durable=durable)

    def _commit(self, final: Path, *, durable: bool) -> None:
        try:
            if durable:
                os.fsync(self._descriptor)
            self._path.rename(final)
            if durable:
                sync_directory(final.parent)
            size_path(self._path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"commit blob {self._digest} to {final}", error) from error
        self.release()

    def drop(self) -> None:
        """Removes the bytes, then gives up the lock."""
        try:
            self._path.unlink(missing_ok=True)
            size_path(self._path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"remove {self._path}", error) from error
        finally:
            self.release()

    def release(self) -> None:
        """Gives up the lock; what has arrived stays for the next fetcher."""
        with self._busy:
            if self._descriptor < 0:
                return
            # an explicit unlock also covers copies of the descriptor in forked children
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path, follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
