"""The socket that containerd dials: inherited from systemd, or made here."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from imagedist.errors import InputError, storage_error
from imagedist.systemd import inherited_sockets
from imagedist.unix_socket import clear

_BACKLOG = 128


def inherited() -> socket.socket | None:
    """The Unix socket of our .socket unit, if there is one.

    Raises:
        InputError: it is something else. StorageError: it cannot be used.
    """
    found = inherited_sockets()
    if not found:
        return None
    if len(found) > 1 or found[0].family != socket.AF_UNIX:
        raise InputError("expected one Unix socket from systemd: see ListenStream= of the .socket unit")
    return found[0]


@contextlib.contextmanager
def bound(path: Path) -> Iterator[socket.socket]:
    """A listening socket of our own, mode 0600: snapshots are root's business. Its path is free again afterwards.

    Raises:
        InputError: another snapshotter listens, or the path is no socket. StorageError: it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clear(path, "snapshotter", "snapshotter.socket")
            mask = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(mask)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise storage_error(f"listen on the socket {path}", error) from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
