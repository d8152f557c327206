"""How many bytes of the disk a directory takes."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own blocks are


def footprint_bytes(path: Path) -> int:
    """The space that the file system has allocated for a file, or a directory with all it holds.

    A file with several names counts in equal parts for each: a layer's hard link to a lower layer's file is not the
    lower layer's file once more. What vanishes meanwhile counts nothing.

    Raises:
        OSError: something cannot be read.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return _allocated_bytes(status) + (_below_bytes(path) if stat.S_ISDIR(status.st_mode) else 0)


def _below_bytes(directory: Path) -> int:
    total, todo = 0, [os.fspath(directory)]
    while todo:
        with contextlib.suppress(FileNotFoundError), os.scandir(todo.pop()) as found:
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                total += _allocated_bytes(status)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(entry.path)
    return total


def _allocated_bytes(status: os.stat_result) -> int:
    names = 1 if stat.S_ISDIR(status.st_mode) else max(status.st_nlink, 1)
    return status.st_blocks * _BLOCK_BYTES // names
