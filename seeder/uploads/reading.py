"""Blocks out of a blob's file, read in threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import storage_error
from seeder.uploads.wire import Block


class BlobFile:
    """A blob, opened by the first who reads."""

    def __init__(self, path: Path, piece_length: int) -> None:
        self._path = path
        self._piece_length = piece_length
        self._descriptor: int | None = None
        self._opening = threading.Lock()

    def read(self, blocks: Sequence[Block]) -> list[bytes]:
        """Each block's bytes. Blocking.

        Raises:
            StorageError: the file is gone, the disk failed, or it is shorter than its torrent says.
        """
        read = []
        try:
            with self._opening:
                if self._descriptor is None:
                    self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            for block in blocks:
                content = os.pread(self._descriptor, block.length, block.piece * self._piece_length + block.begin)
                if len(content) != block.length:
                    raise OSError(f"it ends within piece {block.piece}")
                read.append(content)
        except OSError as error:
            raise storage_error(f"read {self._path} to seed it", error) from error
        return read

    def close(self) -> None:
        """Until somebody reads again. While nobody does."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
