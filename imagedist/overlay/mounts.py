"""Read-only overlay mounts of an image's layers, by the short links of containers/storage."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import StorageError, storage_error
from imagedist.privileges import is_machine_root, may_give_away

_MOUNTS = Path("/proc/self/mountinfo")
_OPTIONS_LIMIT_BYTES = 4095  # mount(2) copies one page: some 140 layers; registries and Docker allow 127
_MS_RDONLY = 1
_UMOUNT_NOFOLLOW = 8
_CLONE_FS = 0x00000200


def mount(overlay: Path, lowers: Sequence[str], target: Path) -> None:
    """Mounts ``lowers`` at ``target``, which is created; nothing happens when something is mounted there already.

    Args:
        overlay: the store's ``overlay`` directory, which the lowers are relative to.
        lowers: uppermost first.

    Raises:
        StorageError: not root, too many layers, or the kernel refuses.
    """
    _refuse_unless_root(f"mount {target}")
    marks = "" if is_machine_root() else "userxattr,"
    options = f"{marks}lowerdir={':'.join(lowers)}".encode()
    if len(options) > _OPTIONS_LIMIT_BYTES:
        raise StorageError(f"cannot mount {target}: {len(lowers)} layers are more than one mount can name; squash some")
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.path.ismount(target):
            _mount_in(overlay, target, options)
    except OSError as error:
        raise storage_error(f"mount {target}", error) from error


def umount(target: Path) -> None:
    """Unmounts and removes the mount point; nothing happens when nothing is mounted there.

    Raises:
        StorageError: not root, or still in use.
    """
    if not os.path.ismount(target):
        return
    _refuse_unless_root(f"unmount {target}")
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW) != 0:
            raise _last_error(target)
        target.rmdir()
    except OSError as error:
        raise storage_error(f"unmount {target}", error) from error


def unbind(directory: Path) -> None:
    """Undoes a bind mount of ``directory`` on itself, beyond which nothing can be renamed or linked.

    containers/storage leaves one at ``overlay`` when a tool has the store as its own (drivers/overlay, ``Init``:
    MakePrivate), ``skopeo copy containers-storage:[overlay@ROOT]…`` for one. It makes it again when it needs it.

    Raises:
        StorageError: something in it is in use.
    """
    place = os.path.realpath(directory).replace(" ", "\\040")
    try:
        table = _MOUNTS.read_text(errors="surrogateescape")
        for line in table.splitlines():
            if (
                line.split(" ")[4] == place
                and ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(directory), 0) != 0
            ):
                raise _last_error(directory)
    except OSError as error:
        raise StorageError(
            f"{directory} is mounted on itself by a tool that has this store as its own, and in use "
            f"({error.strerror}): stop its containers, then umount {directory}"
        ) from error


def _refuse_unless_root(action: str) -> None:
    if not may_give_away():
        raise StorageError(
            f"cannot {action}: it needs root; run it with sudo, or of a store of your own with ids in /etc/subuid"
        )


def _mount_in(directory: Path, target: Path, options: bytes) -> None:
    """mount(2) from a working directory of its own, which makes the links relative; ours is every thread's.

    Not mount(8): from 2.39 on it passes options to fsconfig(2), which takes 255 bytes.
    """
    failures: list[OSError] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_FS) != 0:
            failures.append(_last_error(target))
            return
        try:
            os.chdir(directory)
        except OSError as error:
            failures.append(error)
            return
        if libc.mount(b"overlay", os.fsencode(target), b"overlay", _MS_RDONLY, options) != 0:
            failures.append(_last_error(target))

    thread = threading.Thread(target=work, name="mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _last_error(path: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(path))
