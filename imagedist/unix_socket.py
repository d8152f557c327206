"""A Unix socket's path: made with its mode, by one process at a time; it outlives a process that was killed.

Some lie where others may write, so no symlink is followed here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from imagedist.errors import InputError, StorageError, storage_error
from imagedist.locking import locked

_BACKLOG = 128
_TURN_SECONDS = 10.0
"""Others who start here are done long before."""


@contextlib.contextmanager
def listening(path: Path, mode: int, owner: str, option: str) -> Iterator[socket.socket]:
    """A listening socket for the length of a ``with`` block; that of a process that was killed is replaced. Blocking.

    Args:
        owner: what listens there, in words. option: the setting that names the path.

    Raises:
        InputError: somebody listens, or the path is no socket. StorageError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two that start at once would both find a dead socket, and the second remove that of the first.
        with locked(path.with_name(f".{path.name}.lock"), timeout_seconds=_TURN_SECONDS, mode=0o600):
            _clear(path, owner, option)
            listener = _bound(path, mode)
    except OSError as error:
        raise storage_error(f"listen on the socket {path}", error) from error
    with listener:
        own = _inode(path)
        try:
            yield listener
        finally:  # while we listen, or a successor would take the path for a dead one's
            if own == _inode(path):
                path.unlink(missing_ok=True)


def private_directory(path: Path) -> None:
    """Makes a directory of this user alone, or takes the one that is there.

    Raises:
        StorageError: what is there is another's, or no directory; or the disk failed.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(f"prepare the directory {path}", error) from error
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise StorageError(f"cannot use {path}: another user made it; remove it, or have the socket elsewhere")
        os.fchmod(descriptor, 0o700)
    except OSError as error:
        raise storage_error(f"prepare the directory {path}", error) from error
    finally:
        os.close(descriptor)


def _clear(path: Path, owner: str, option: str) -> None:
    """Removes the socket of a process that was killed. Raises InputError, OSError."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):  # connecting to a plain file is "refused", too
            raise InputError(f"{path} is no socket: set {option} to a path that is free")
    except FileNotFoundError:
        return
    if not _is_refused(path):
        raise InputError(f"another {owner} listens on {path}: stop it, or set {option} to another path")
    path.unlink(missing_ok=True)


def _bound(path: Path, mode: int) -> socket.socket:
    """Raises OSError."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        # The path gets the descriptor's mode, less the umask (unix_bind), which is all threads' and stays as it is.
        os.fchmod(listener.fileno(), mode & 0o600)
        listener.bind(str(path))
        _change_mode(path, mode)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _inode(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None


def _is_refused(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a listener whose queue is full would have us wait for ever
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except BlockingIOError:
            return False
    return False


def _change_mode(path: Path, mode: int) -> None:
    """Of the socket that lies there, not of what a symlink in its place leads to. Raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            os.chmod(f"/proc/self/fd/{descriptor}", mode)
    finally:
        os.close(descriptor)
