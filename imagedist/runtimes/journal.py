"""What ``--apply`` wrote, so that ``--undo`` can give back what was there, byte for byte.

A file's former self is kept beside it under another name (a hard link: the same file, owner, mode and times included).
The journal knows of a change before it happens, so after a kill at any point undo tells by digests how far it came.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from imagedist.errors import StorageError, storage_error

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One change, newest last in the journal.

    Attributes:
        path: the file, or a directory that was made for itself.
        before, after: SHA-256 of its content; ``before`` is None if we made it, both are None of a directory.
        backup: its former self.
        made: directories made for it, outermost first.
        keys: the runtimes it is for.
    """

    path: str
    before: str | None
    after: str | None
    backup: str | None
    made: tuple[str, ...]
    keys: tuple[str, ...]


class Journal:
    """The entries in one JSON file; one process at a time (the caller holds a lock)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[Entry]:
        """Raises StorageError: unreadable, malformed, or of a newer version."""
        try:
            document: dict[str, Any] = json.loads(self._path.read_bytes())
            if document["format"] != _FORMAT:
                raise StorageError(f"{self._path} is of a newer version of imagedist: use that to undo")
            return [
                Entry(**{**entry, "made": tuple(entry["made"]), "keys": tuple(entry["keys"])})
                for entry in document["entries"]
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(f"read {self._path}", error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self._path} is damaged ({error}): the backups lie beside the files") from error

    def write(self, entries: list[Entry]) -> None:
        """Replaces the journal. Raises StorageError."""
        try:
            if not entries:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps({"format": _FORMAT, "entries": [asdict(entry) for entry in entries]}, indent=1)
            write_aside(self._path, content.encode())
        except OSError as error:
            raise storage_error(f"write {self._path}", error) from error


def write_aside(path: Path, content: bytes, like: Path | None = None) -> None:
    """Replaces a file at once, with the owner, mode and attributes of ``like``; durable when it returns.

    Raises:
        OSError.
    """
    aside = aside_of(path)
    try:
        aside.unlink(missing_ok=True)  # a killed process's
        # For nobody else before it has the mode that it is to have: there may be logins in it.
        with open(aside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
            if like is not None:
                status = like.stat()
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                shutil.copystat(like, aside)
                os.utime(aside)
            else:
                os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_directory(path.parent)


def aside_of(path: Path) -> Path:
    """Where a file is written before it is renamed; no program takes it for a configuration file."""
    return path.with_name(f".{path.name}.imagedist")


def sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def digest(path: Path) -> str | None:
    """SHA-256 of a file, None without one. Raises StorageError: it cannot be read."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_error(f"read {path}", error) from error
