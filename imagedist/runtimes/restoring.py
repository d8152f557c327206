"""One change taken back: from wherever a kill has left it, and never over somebody else's file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import StorageError, storage_error
from imagedist.runtimes.journal import Entry, aside_of, digest, sync_directory


def beside(path: Path, word: str) -> Path:
    """A name that is not taken; no program takes it for a configuration file, as the suffix is none."""
    name = f"{path.name}.{word}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for number in range(1, 1000):
        free = path.with_name(name if number == 1 else f"{name}-{number}")
        if not os.path.lexists(free):
            return free
    raise StorageError(f"{path.parent} is full of backups: remove some of them")


def taken_back(entries: Sequence[Entry]) -> list[Entry]:
    """Restores what a failed run wrote; returns the entries that could not be, which --undo tries again."""
    left = []
    for entry in reversed(entries):
        try:
            restore(entry)
        except StorageError:
            left.append(entry)
    return left[::-1]


def restore(entry: Entry) -> None:
    """The file as it was before the entry, from wherever a kill has left it; then the directories made for it.

    A file that is not as we left it (nor gone) is another's: it stays, whatever comes of the entry.
    """
    path = Path(entry.path)
    try:
        if entry.after is not None:
            with contextlib.suppress(OSError):  # it is not there, or does no harm
                aside_of(path).unlink()
            _bring_back(path, Path(entry.backup) if entry.backup else None, entry)
        if path.parent.is_dir():
            sync_directory(path.parent)
        for directory in reversed(entry.made):
            with contextlib.suppress(OSError):  # somebody else put something there: it stays
                os.rmdir(directory)
    except OSError as error:
        raise storage_error(f"restore {path}", error) from error


def _bring_back(path: Path, backup: Path | None, entry: Entry) -> None:
    content = digest(path)
    if backup is None:
        if content == entry.after:
            path.unlink()
    elif content not in (entry.after, None):  # never written, or brought back already
        if backup.exists():
            backup.unlink()
    elif backup.exists():
        backup.rename(path)
    else:
        raise StorageError(f"cannot restore {path}: its backup {backup} is gone")
