"""Locks that processes and threads share: open-file-description locks, and private directories that outlive nobody."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from imagedist.errors import StorageError, storage_error

_FLOCK = "hhqqi0q"  # struct flock of a 64-bit Linux: type, whence, start, len, pid
_PRIVATE_BYTES = 16
_PRIVATE = re.compile(rf"[0-9a-f]{{{2 * _PRIVATE_BYTES}}}\Z")
"""Names that ``PrivateDirectory`` gives: whatever else has a lock file beside it is somebody else's."""
_POLL_SECONDS = 0.01
LOCK_TIMEOUT_SECONDS = 600.0


class LockFile:
    """One open lock file. Its locks belong to this object, not to the process (``F_OFD_SETLK``, fcntl(2)).

    They exclude, and are excluded by, the POSIX record locks of containers/storage; but closing another descriptor of
    the same file does not drop them. Several objects may lock several bytes of one file.

    Args:
        path: nothing is ever removed, and no symlink followed: some lie where others may write.
        create: when it is not there; otherwise FileNotFoundError.
        mode: of a new one. Whoever may read it may hold others up by a shared lock.
    """

    def __init__(self, path: Path, *, create: bool = True, mode: int = 0o644) -> None:
        self.path = path
        try:
            if not create:
                self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                return
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        except OSError as error:
            if not create and isinstance(error, FileNotFoundError):
                raise
            raise storage_error("open a lock file", error) from error

    def acquire(
        self,
        start: int = 0,
        length: int = 0,
        *,
        shared: bool = False,
        timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        stop: threading.Event | None = None,
    ) -> None:
        """Waits for a range of bytes (length 0: to the end of the file).

        Raises:
            StorageError: not free within ``timeout_seconds``, or ``stop`` was set meanwhile.
        """
        # Polled: a thread inside F_OFD_SETLKW could not be told to stop, and Ctrl-C would hang at exit.
        deadline = time.monotonic() + timeout_seconds
        while not self.try_acquire(start, length, shared=shared):
            if stop is not None and stop.is_set():
                raise StorageError(f"gave up waiting for {self.path}: the pull was stopped")
            if time.monotonic() >= deadline:
                raise StorageError(
                    f"cannot lock {self.path} within {timeout_seconds:.0f} s: another process holds it; try again"
                )
            time.sleep(_POLL_SECONDS)

    def try_acquire(self, start: int = 0, length: int = 0, *, shared: bool = False) -> bool:
        """The same, without waiting. True: it is held now."""
        try:
            self._set(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, length)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise storage_error(f"lock {self.path}", error) from error
        return True

    def release(self, start: int = 0, length: int = 0) -> None:
        self._set(fcntl.F_UNLCK, start, length)

    def _set(self, kind: int, start: int, length: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))

    def read(self, limit_bytes: int) -> bytes:
        return os.pread(self._fd, limit_bytes, 0)

    def write(self, content: bytes) -> None:
        """Replaces the file's content; the lock should be held."""
        try:
            os.pwrite(self._fd, content, 0)
            os.ftruncate(self._fd, len(content))
        except OSError as error:
            raise storage_error(f"write {self.path}", error) from error

    def close(self) -> None:
        """Drops every lock of this object."""
        os.close(self._fd)


@contextlib.contextmanager
def locked(
    path: Path, *, shared: bool = False, timeout_seconds: float = LOCK_TIMEOUT_SECONDS, mode: int = 0o644
) -> Iterator[LockFile]:
    """Holds a whole lock file for the length of a ``with`` block."""
    lock = LockFile(path, mode=mode)
    try:
        lock.acquire(shared=shared, timeout_seconds=timeout_seconds)
        yield lock
    finally:
        lock.close()


class PrivateDirectory:
    """``parent/<random>/`` for one owner, with ``parent/<random>.lock`` locked as long as the owner lives.

    Creating one first removes those whose owners died, even by SIGKILL.
    """

    def __init__(self, parent: Path) -> None:
        try:
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            refuse_strangers(parent)
            with locked(parent / ".lock"):
                remove_abandoned(parent)
                name = os.urandom(_PRIVATE_BYTES).hex()
                self.lock = LockFile(parent / f"{name}.lock")
                self.lock.acquire()
                self.path = parent / name
                self.path.mkdir(mode=0o700)
        except OSError as error:
            raise storage_error(f"create a private directory in {parent}", error) from error

    def close(self) -> None:
        """Removes the directory with all it holds, then the lock."""
        _remove_private(self.lock)
        self.lock.close()


def refuse_strangers(directory: Path) -> None:
    """Where everybody may make directories (/dev/shm, /tmp), only one of our own will do.

    Whoever made it first could have root open a symlink for a lock file, or swap a staged tar after it was checked.

    Raises:
        StorageError: somebody else owns it, or may write there.
    """
    if not directory.parent.stat().st_mode & stat.S_IWOTH:
        return
    status = directory.lstat()
    is_shared = stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or is_shared:
        raise StorageError(
            f"cannot use {directory}: anybody may make it, and it is not a directory of this user alone; "
            "remove it, or choose another"
        )


def remove_abandoned(parent: Path) -> None:
    """Removes what dead owners left in ``parent``. The caller holds ``parent/.lock``."""
    for lock in _locks_of_the_dead(parent):
        _remove_private(lock)


def abandoned(parent: Path) -> list[Path]:
    """What ``remove_abandoned`` would remove. The caller holds ``parent/.lock``."""
    return [lock.path.with_suffix("") for lock in _locks_of_the_dead(parent)]


def _locks_of_the_dead(parent: Path) -> Iterator[LockFile]:
    """Each one is held while it is looked at."""
    for lock in list(private_locks(parent)):
        try:
            if lock.try_acquire():
                yield lock
        finally:
            lock.close()


def private_locks(parent: Path) -> Iterator[LockFile]:
    """The lock files of all private directories there are, dead or alive; the caller closes them."""
    for path in sorted(parent.glob("?*.lock")):
        if not _PRIVATE.match(path.stem):
            continue
        with contextlib.suppress(FileNotFoundError):  # its owner is done meanwhile
            yield LockFile(path, create=False)


def _remove_private(lock: LockFile) -> None:
    """What cannot be removed now keeps its lock file, so that the next owner tries again.

    A worker of an owner that was killed may still write for a moment.
    """
    directory = lock.path.with_suffix("")
    with contextlib.suppress(OSError):
        remove_tree(directory)
    if not directory.exists():
        lock.path.unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """``rmtree`` that an unprivileged owner can use on the read-only directories of a layer."""
    if os.geteuid() != 0:
        directory.chmod(0o700)
        for path, names, _ in os.walk(directory):
            for inner in (Path(path, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(0o700)
    import shutil  # here: a worker imports this file and never removes a directory

    shutil.rmtree(directory)
