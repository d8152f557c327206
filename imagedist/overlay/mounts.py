"""Read-only overlay mounts of an image's layers, by the short links of containers/storage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import StorageError, storage_error

_OPTIONS_LIMIT_BYTES = 4095  # mount(2) copies one page


def mount(overlay: Path, lowers: Sequence[str], target: Path) -> None:
    """Mounts ``lowers`` at ``target``, which is created; nothing happens when something is mounted there already.

    Args:
        overlay: the store's ``overlay`` directory, which the lowers are relative to: short links keep the options of
            some 140 layers within the kernel's one page.
        lowers: uppermost first.

    Raises:
        StorageError: not root, too many layers, or the kernel refuses.
    """
    if os.geteuid() != 0:
        raise StorageError(f"cannot mount {target}: mounting needs root; run the command with sudo")
    options = "ro,lowerdir=" + ":".join(lowers)
    if len(options) > _OPTIONS_LIMIT_BYTES:
        raise StorageError(f"cannot mount {target}: {len(lowers)} layers are more than one mount can name; squash some")
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.path.ismount(target):
            _run(["mount", "-t", "overlay", "overlay", "-o", options, str(target)], overlay)
    except OSError as error:
        raise storage_error(f"mount {target}", error) from error


def umount(target: Path) -> None:
    """Unmounts and removes the mount point; nothing happens when nothing is mounted there.

    Raises:
        StorageError: not root, or still in use.
    """
    if not os.path.ismount(target):
        return
    if os.geteuid() != 0:
        raise StorageError(f"cannot unmount {target}: it needs root; run the command with sudo")
    try:
        _run(["umount", str(target)], target.parent)
        target.rmdir()
    except OSError as error:
        raise storage_error(f"unmount {target}", error) from error


def _run(command: list[str], directory: Path) -> None:
    # A process of its own: its working directory makes the links relative, and ours is every thread's.
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, errors="replace")
    if result.returncode != 0:
        raise StorageError(f"{command[0]} failed: {result.stderr.strip() or result.returncode}")
