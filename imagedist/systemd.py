"""systemd's side of a process: sockets that it passed, its journal, and word to it that we serve, stop, are alive."""

from __future__ import annotations

import contextlib
import os
import socket

from imagedist.errors import InputError, storage_error

_FIRST_INHERITED = 3  # sd_listen_fds(3)


def inherited_sockets() -> list[socket.socket]:
    """sd_listen_fds(3): the listening sockets that are meant for this very process; none without a .socket unit.

    Raises:
        InputError: one does not listen. StorageError: one cannot be used.
    """
    process, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            found.append(socket.socket(fileno=descriptor))
            is_listening = found[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise storage_error("use a socket that systemd passed", error) from error
        if not is_listening or found[-1].type != socket.SOCK_STREAM:
            raise InputError("a socket that systemd passed is no listening one: see ListenStream= of its unit")
    return found


def notify(state: str) -> None:
    """sd_notify(3), if systemd wants to know: ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.setblocking(False)  # a service manager that does not read must not stop us
        told.connect("\0" + address[1:] if address.startswith("@") else address)
        told.send(state.encode())


def is_journal(descriptor: int) -> bool:
    """Whether the journal reads what is written there (``$JOURNAL_STREAM``, systemd.exec(5)).

    The variable alone says nothing: children of a service inherit it, wherever they write.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def watchdog_seconds() -> float | None:
    """How long systemd lets this process be silent (sd_watchdog_enabled(3)); None: for ever."""
    process, microseconds = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if process not in ("", str(os.getpid())) or not microseconds.isdecimal() or int(microseconds) < 1:
        return None
    return int(microseconds) / 1e6
