"""Which layers may be lost with the power: merged and recorded, but not known to be on the disk yet."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from imagedist.errors import StorageError, storage_error
from imagedist.overlay.records import fsync_directory

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WRITE_BACK_SECONDS = 1.0
"""The kernel begins to write by itself after seconds, or gigabytes: a pull would end with all of it still to write, by
one thread (15.5 → 11.4 s and 12.7 → 10.3 s for 1.7 GB on ext4; every 0.3 s was no better)."""


class Unsynced:
    """One note per build, on the disk before the first of its layers is merged, gone after a sync.

    A process that is killed loses nothing, the page cache stays; its note says that its layers are not synced yet.

    Args:
        directory: for the notes, on the store's file system.
        builders: has a directory for each build under way, named as its note.
    """

    def __init__(self, directory: Path, builders: Path) -> None:
        self._directory = directory
        self._builders = builders

    def note(self, builder: str, layer_ids: Iterable[str]) -> Path:
        """Writes down what is about to be merged. Not aside: a note that was cut off is of a build that merged nothing.

        Raises:
            StorageError: the disk failed.
        """
        path = self._directory / f"{builder}.json"
        content = json.dumps({"version": 1, "boot": _boot(), "layers": list(layer_ids)})
        try:
            with path.open("x") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fsync_directory(self._directory)
        except OSError as error:
            raise storage_error("note what will be merged", error) from error
        return path

    def settle(self, note: Path | None, layer_ids: Collection[str], *, is_forced: bool = False) -> None:
        """Makes layers durable, whoever merged them, by one sync of the file system instead of many thousand files.

        Drops ``note``, which is our own, and those that killed builds left.

        Args:
            is_forced: sync even if no note names one of the layers.
        """
        notes = {path: layers for path, boot, layers in self._notes() if boot == _boot()}
        if not is_forced and not any(set(layer_ids).intersection(layers) for layers in notes.values()):
            return
        over = [path for path in notes if path == note or self._is_over(path)]
        sync_file_system(self._directory)
        for path in over:
            path.unlink(missing_ok=True)

    def of_dead_builds(self) -> list[Path]:
        """Notes whose builds ended without settling them."""
        return [path for path, _, _ in self._notes() if self._is_over(path)]

    def before_this_boot(self) -> dict[Path, list[str]]:
        """Notes that a lost machine left, with the ids of the layers not to be trusted."""
        return {
            path: layers
            for path, boot, layers in self._notes()
            if (self._is_over(path) if boot is None else boot != _boot())
        }

    def _is_over(self, note: Path) -> bool:
        return not (self._builders / note.stem).exists()

    def _notes(self) -> Iterator[tuple[Path, str | None, list[str]]]:
        """Each note's path, boot (None: cut off, or being written) and layer ids."""
        try:
            found = [self._directory / name for name in os.listdir(self._directory) if name.endswith(".json")]
        except OSError as error:
            raise storage_error("read what was not synced", error) from error
        for path in found:
            try:
                content = json.loads(path.read_bytes())
                yield path, content["boot"], content["layers"]
            except FileNotFoundError:
                continue  # settled meanwhile
            except OSError as error:
                raise storage_error("read what was not synced", error) from error
            except (ValueError, KeyError, TypeError):
                yield path, None, []


def sync_file_system(directory: Path) -> None:
    """syncfs(2) of the file system that holds ``directory``.

    Raises:
        StorageError: something could not be written.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), str(directory))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error("write the layers to the disk", error) from error


@contextlib.contextmanager
def writing_back(directory: Path) -> Iterator[None]:
    """Syncs the file system again and again while a build goes on, so that the sync at its end has little left to do.

    Raises:
        StorageError: something could not be written. The kernel tells that once, so the sync at the end would not see.
    """
    ended = threading.Event()
    failures: list[StorageError] = []

    def sync() -> None:
        while not failures and not ended.wait(_WRITE_BACK_SECONDS):
            try:
                sync_file_system(directory)
            except StorageError as error:
                failures.append(error)

    thread = threading.Thread(target=sync, name="write-back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    for failure in failures:
        raise failure


def _boot() -> str:
    return _BOOT_ID.read_text().strip()
