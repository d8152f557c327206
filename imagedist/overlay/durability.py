"""Which layers may be lost with the power: merged and recorded, but not known to be on the disk yet."""

from __future__ import annotations

import ctypes
import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.overlay.records import write_aside

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Unsynced:
    """One note per build, on the disk before the first of its layers is merged, gone after the sync.

    A process that is killed loses nothing, the page cache stays; so a note matters only after another boot.

    Args:
        directory: for the notes, on the store's file system.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, layer_ids: Iterable[str]) -> Path:
        """Writes down what is about to be merged."""
        path = self._directory / f"{uuid.uuid4().hex}.json"
        content = json.dumps({"version": 1, "boot": _boot(), "layers": list(layer_ids)})
        write_aside(path, content.encode(), is_durable=True)
        _fsync_directory(self._directory)
        return path

    def settle(self, note: Path) -> None:
        """Syncs the file system once, instead of many thousand files, and drops the note."""
        sync_file_system(self._directory)
        note.unlink(missing_ok=True)

    def before_this_boot(self) -> dict[Path, list[str]]:
        """Notes that a lost machine left, with the ids of the layers not to be trusted."""
        notes: dict[Path, list[str]] = {}
        for path in self._directory.glob("*.json"):
            try:
                content = json.loads(path.read_bytes())
            except FileNotFoundError:
                continue  # settled meanwhile
            except OSError as error:
                raise storage_error("read what was not synced", error) from error
            if content["boot"] != _boot():
                notes[path] = content["layers"]
        return notes


def sync_file_system(directory: Path) -> None:
    """syncfs(2) of the file system that holds ``directory``.

    Raises:
        StorageError: something could not be written.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            error = ctypes.get_errno()
            raise storage_error("write the layers to the disk", OSError(error, os.strerror(error), str(directory)))
    finally:
        os.close(descriptor)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise storage_error("write to the disk", error) from error
    finally:
        os.close(descriptor)


def _boot() -> str:
    return _BOOT_ID.read_text().strip()
