"""Blobs that the disk may not have yet: after a power cut they are hashed before anybody gets them. Blocking.

A commit renames what the page cache holds and waits for no disk. So each one first leaves an empty note
``unsynced/<algorithm>-<hex>.<boot id>``; a thread syncs the file behind it and takes the note away. A killed process
loses nothing of the page cache; a note of another boot means that the machine went down in between.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from imagedist.errors import InputError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.files import HASH_STEP_BYTES

_LOG = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


class Unsynced:
    """The notes of one store.

    Args:
        boot: of this boot; injected by tests.
    """

    def __init__(self, root: Path, boot: str | None = None) -> None:
        self._directory = root / "unsynced"
        self._boot = boot or boot_id()
        self._disk = ThreadPoolExecutor(1, "sync")

    def note(self, digest: Digest) -> None:
        """Before the rename. Raises StorageError: the disk is full or failed."""
        path = self._path(digest)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise storage_error(f"write {path}", error) from error

    def sync_soon(self, digest: Digest, blob: Path) -> None:
        """After the rename: in a thread of its own, one blob at a time."""
        self._disk.submit(_sync, blob, self._path(digest))

    def wrong(self, path_of: Callable[[Digest], Path]) -> list[Digest]:
        """At the start: syncs what this boot left, hashes what an earlier one did.

        Returns:
            Blobs that are not what they should be: to be removed, and their notes then forgotten.

        Raises:
            StorageError: the disk failed.
        """
        found = []
        try:
            for entry in list(os.scandir(self._directory)):
                name, _, boot = entry.name.partition(".")
                try:
                    digest = Digest.parse(name.replace("-", ":", 1))
                except InputError:
                    os.unlink(entry.path)
                    continue
                blob = path_of(digest)
                if boot == self._boot:
                    self._disk.submit(_sync, blob, Path(entry.path))
                elif not blob.exists() or is_right(blob, digest):
                    _sync(blob, Path(entry.path))
                else:
                    _LOG.warning("%s was cut short when the machine went down: dropping it", digest)
                    found.append(digest)
        except OSError as error:
            raise storage_error(f"check the blobs named in {self._directory}", error) from error
        return found

    def forget(self, digest: Digest) -> None:
        for entry in list(os.scandir(self._directory)):
            if entry.name.startswith(f"{digest.algorithm}-{digest.hex}."):
                Path(entry.path).unlink(missing_ok=True)

    def close(self) -> None:
        self._disk.shutdown()

    def _path(self, digest: Digest) -> Path:
        return self._directory / f"{digest.algorithm}-{digest.hex}.{self._boot}"


def is_right(blob: Path, digest: Digest) -> bool:
    """Whether a file has the digest, by hashing it. Raises OSError."""
    hasher = digest.hasher()
    with FileIO(blob) as file:
        while chunk := file.read(HASH_STEP_BYTES):
            hasher.update(chunk)
    return digest.matches(hasher)


def _sync(blob: Path, note: Path) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            descriptor = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        note.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("cannot sync %s, so it is checked at the next boot: %s", blob, error)
