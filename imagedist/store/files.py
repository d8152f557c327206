"""Small files that survive a SIGKILL at any point: written aside, then renamed."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from imagedist.errors import storage_error

HASH_STEP_BYTES = 1 << 20


def write_aside(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replaces ``path`` in one step; a reader sees the old content or the new. Blocking.

    Names beginning with a dot are ours: no digest, tag or upstream begins with one.

    Args:
        durable: also survive a power cut (two fsyncs).

    Raises:
        StorageError: the directory cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        raise storage_error(f"write {path}", error) from error


def is_open_to_others(directory: Path) -> bool:
    """Whether users who are neither owner nor group may look into it, and get there. Blocking. Raises OSError."""
    ways_in = [directory, *directory.absolute().parents]
    return bool(directory.stat().st_mode & stat.S_IROTH) and all(each.stat().st_mode & stat.S_IXOTH for each in ways_in)


def sync_directory(directory: Path) -> None:
    """Makes renames in a directory survive a power cut. Blocking."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
