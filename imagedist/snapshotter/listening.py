"""The socket that containerd dials: inherited from systemd, or made here; and word to systemd that we serve."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from imagedist.errors import InputError, storage_error
from imagedist.unix_socket import clear

_FIRST_INHERITED = 3  # sd_listen_fds(3)
_BACKLOG = 128


def inherited() -> socket.socket | None:
    """sd_listen_fds(3): the first socket, if it is meant for this very process.

    Raises:
        InputError: it is no listening Unix socket. StorageError: it cannot be used.
    """
    process, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal() or int(count) < 1:
        return None
    try:
        found = socket.socket(fileno=_FIRST_INHERITED)
    except OSError as error:
        raise storage_error("use the socket that systemd passed", error) from error
    if found.family != socket.AF_UNIX or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise InputError("the socket that systemd passed is no listening Unix socket: see ListenStream= of its unit")
    return found


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


def notify(state: str) -> None:
    """sd_notify(3), if systemd wants to know; ``READY=1`` or ``STOPPING=1``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.connect("\0" + address[1:] if address.startswith("@") else address)
        told.send(state.encode())
