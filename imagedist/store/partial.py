"""One partial file on disk: locked by whoever fetches it, hashed as it grows, renamed when it is right. Blocking.

The ``flock`` on the file elects one fetcher among all processes of a machine (design.md §5) and dies with it.
Beside the bytes lies ``<name>.size``, the blob's size as its source stated it: for followers in other processes,
and the room that is promised to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

from imagedist.errors import IntegrityError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.files import write_aside

SIZE_SUFFIX = ".size"
_REHASH_STEP_BYTES = 1 << 20
_CLAIM_ATTEMPTS = 8


def size_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}{SIZE_SUFFIX}")


def stated_size(partial: Path) -> int | None:
    """The blob's size as another process's source stated it; None while that is not known."""
    try:
        text = size_path(partial).read_text()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


class Partial:
    """A partial file that this process holds the lock of. Made by ``claim``.

    Attributes:
        found_bytes: what an earlier fetch left. present_bytes: how far this one has come.
        promised_bytes: the stated size, once the store has promised room for it.
    """

    def __init__(self, path: Path, digest: Digest, descriptor: int) -> None:
        self._path = path
        self.digest = digest
        self._descriptor = descriptor
        self._hasher = digest.hasher()
        # a cancelled task leaves its thread writing: the descriptor is closed only behind it
        self._busy = threading.RLock()
        self.found_bytes = os.fstat(descriptor).st_size if descriptor >= 0 else 0
        self.present_bytes = 0
        self.promised_bytes: int | None = None

    @classmethod
    def nowhere(cls, digest: Digest) -> Partial:
        """For bytes that are not stored: only hashed and counted."""
        return cls(Path(os.devnull), digest, -1)

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
                        # what a killed fetcher's source said is no promise of ours
                        size_path(path).unlink(missing_ok=True)
                        return cls(path, digest, descriptor)
                except BlockingIOError:
                    os.close(descriptor)
                    return None
                # the file was committed or dropped between open and lock: look again
                os.close(descriptor)
        except OSError as error:
            raise storage_error(f"create {path}", error) from error
        return None

    @property
    def is_nowhere(self) -> bool:
        return self._descriptor < 0

    def duplicate(self) -> int | None:
        """A descriptor of the bytes that are there, for readers of a file that is about to be dropped."""
        return os.dup(self._descriptor) if self.present_bytes and self._descriptor >= 0 else None

    @property
    def counted_bytes(self) -> int:
        """What the store's ledger has for it, until it is dropped or released."""
        if self.is_nowhere:
            return 0
        return self.found_bytes if self.promised_bytes is None else self.promised_bytes

    @property
    def outstanding_bytes(self) -> int:
        """What of it is promised and has not come."""
        return 0 if self.is_nowhere else max(0, self.counted_bytes - max(self.found_bytes, self.present_bytes))

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
        self.promised_bytes = size_bytes

    def append(self, chunk: bytes | memoryview) -> None:
        """Writes and hashes the next bytes.

        Raises:
            StorageError: the disk is full or failed; names the directory.
        """
        view = memoryview(chunk)
        with self._busy:
            self._append(view)

    def pass_by(self, chunk: bytes) -> None:
        """Hashes and counts the next bytes without storing them."""
        self._hasher.update(chunk)
        self.present_bytes += len(chunk)

    def _append(self, view: memoryview) -> None:
        try:
            while view:
                written = os.pwrite(self._descriptor, view, self.present_bytes)
                self._hasher.update(view[:written])
                self.present_bytes += written
                view = view[written:]
        except OSError as error:
            raise storage_error(f"write blob {self.digest} to {self._path.parent}", error) from error

    def check(self) -> None:
        """
        Raises:
            IntegrityError: what has arrived does not have the digest.
        """
        if not self.digest.matches(self._hasher):
            raise IntegrityError(f"blob {self.digest} arrived with wrong bytes: its digest does not match")

    def commit(self, final: Path) -> None:
        """Checks the digest, then renames into place and gives up the lock.

        Raises:
            IntegrityError: wrong bytes. StorageError.
        """
        self.check()
        with self._busy:  # nobody takes over a file that is being renamed
            self._commit(final)

    def _commit(self, final: Path) -> None:
        try:
            os.utime(self._descriptor)  # used now, not when its first byte came
            self._path.rename(final)
            size_path(self._path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"commit blob {self.digest} to {final}", error) from error
        self.release()

    def drop(self) -> None:
        """Removes the bytes, then gives up the lock."""
        if self._descriptor < 0:
            return
        try:
            self._path.unlink(missing_ok=True)
            size_path(self._path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"remove {self._path}", error) from error
        finally:
            self.release()

    def move(self, path: Path) -> None:
        """Puts the bytes elsewhere, then gives up the lock."""
        try:
            self._path.rename(path)
        except OSError as error:
            raise storage_error(f"move {self._path} to {path}", error) from error
        finally:
            self.release()

    def release(self) -> None:
        """Gives up the lock; what has arrived stays for the next fetcher."""
        with self._busy:
            if self._descriptor < 0:
                return
            with contextlib.suppress(OSError):
                size_path(self._path).unlink(missing_ok=True)  # nobody follows it, and no room is promised
            # an explicit unlock also covers copies of the descriptor in forked children
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path, follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
