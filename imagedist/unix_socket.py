"""A Unix socket's path, which outlives a process that was killed."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path

from imagedist.errors import InputError


def clear(path: Path, owner: str, option: str) -> None:
    """Removes the socket of a process that was killed; the path is free then.

    Args:
        owner: what listens there, in words. option: the setting that names the path.

    Raises:
        InputError: somebody listens, or the path is no socket. OSError: the disk failed.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):  # connecting to a plain file is "refused", too
            raise InputError(f"{path} is no socket: set {option} to a path that is free")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise InputError(f"another {owner} listens on {path}: stop it, or set {option} to another path")
