"""The socket that containerd dials: inherited from systemd, or made here."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from pathlib import Path

from imagedist.errors import InputError
from imagedist.systemd import inherited_sockets
from imagedist.unix_socket import listening


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


def bound(path: Path) -> AbstractContextManager[socket.socket]:
    """A listening socket of our own, mode 0600: snapshots are root's business. Its path is free again afterwards.

    Raises:
        InputError: another snapshotter listens, or the path is no socket. StorageError: it cannot be made.
    """
    return listening(path, 0o600, "snapshotter", "snapshotter.socket")
