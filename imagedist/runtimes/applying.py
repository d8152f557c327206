"""``--apply``: all of a plan is written or nothing, and what was there can always be had back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket as sockets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from imagedist.errors import InputError, StorageError, storage_error
from imagedist.runtimes.journal import Entry, Journal, digest, write_aside
from imagedist.runtimes.plan import FileChange, Plan
from imagedist.runtimes.restoring import beside, taken_back
from imagedist.runtimes.settings import Settings

_JOURNAL = "/var/lib/imagedist/runtimes.json"
_LOCK = "/var/lib/imagedist/runtimes.lock"
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Written:
    """One file or directory that was written or given back; ``kept`` is what it was before that, if it is kept."""

    path: str
    kept: str | None
    keys: tuple[str, ...]


def apply(settings: Settings, wanted: Plan) -> list[Written]:
    """Writes a plan; a failure takes back what was written before it.

    Raises:
        InputError: not root, or the snapshotter that a runtime would depend on does not run.
        StorageError: a file could not be written, or was changed at the same time.
    """
    need_root(settings, "--apply")
    if settings.root == Path("/"):
        _need_snapshotter(settings.socket, wanted)
    with locked(settings) as journal:
        entries = journal.entries()
        known = len(entries)
        try:
            for directory, keys in wanted.directories:
                entries.append(Entry(str(directory), None, None, None, _missing(directory), keys))
                journal.write(entries)
                _make(directory)
            for change in wanted.files:
                entries.append(_announced(change))
                journal.write(entries)
                _write(change, entries[-1])
        except BaseException:
            journal.write(entries[:known] + taken_back(entries[known:]))
            raise
    return [Written(entry.path, entry.backup, entry.keys) for entry in entries[known:]]


def need_root(settings: Settings, option: str) -> None:
    if os.geteuid() != 0 and settings.root == Path("/"):
        raise InputError(f"{option} writes this machine's configuration: run it as root")


def _need_snapshotter(socket: Path, wanted: Plan) -> None:
    """While its snapshotter is down, a containerd can pull and start nothing: it is there first."""
    keys = {key: None for change in wanted.files if change.needs_snapshotter for key in change.keys}
    if not keys:
        return
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(socket))
        except OSError as error:
            raise InputError(
                f"no snapshotter listens at {socket}, and {' and '.join(keys)} would start nothing without it: "
                "start `imagedist snapshotter --config agent.toml` (its .socket unit) first, or name other runtimes"
            ) from error


@contextlib.contextmanager
def locked(settings: Settings) -> Iterator[Journal]:
    path = settings.at(_LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise storage_error(f"lock {path}", error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Journal(settings.at(_JOURNAL))
    finally:
        os.close(lock)


def _announced(change: FileChange) -> Entry:
    path = change.path
    before = None if change.before is None else sha256(change.before).hexdigest()
    backup = str(beside(path, "imagedist")) if before else None
    made = _missing(path.parent)
    return Entry(str(path), before, sha256(change.after).hexdigest(), backup, made, change.keys)


def _missing(directory: Path) -> tuple[str, ...]:
    return tuple(str(parent) for parent in reversed((directory, *directory.parents)) if not parent.exists())


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(f"make {directory}", error) from error


def _write(change: FileChange, entry: Entry) -> None:
    path = change.path
    _make(path.parent)
    try:
        if entry.backup is not None:
            os.link(path, entry.backup, follow_symlinks=False)
        if digest(Path(entry.backup or path)) != entry.before:
            raise StorageError(f"{path} was changed at the same time: try again")
        write_aside(path, change.after, Path(entry.backup) if entry.backup else None)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EROFS):
            hint = "is it immutable (lsattr), or on a read-only file system?"
            raise StorageError(f"cannot write {path}: {error.strerror}; {hint}") from error
        raise storage_error(f"write {path}", error) from error
