"""The agent's own tmpfs for staged tars: mounted at start, gone at exit; what a killed agent left is replaced.

Its pages are charged to the cgroup of whoever writes them first: the agent's service, whose limit counts the budget.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.privileges import is_machine_root

_LOG = logging.getLogger(__name__)

_SOURCE = "imagedist-ramdisk"
"""What /proc/mounts calls a tmpfs of ours, so that an operator's own is left alone."""
_OPTIONS = "mode=0700"
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_MS_REMOUNT = 32
_MS_PRIVATE = 1 << 18
_UMOUNT_NOFOLLOW = 8
_SHARED_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def mounted(directory: Path, budget_bytes: int) -> Iterator[None]:
    """A tmpfs at ``directory`` while the context is open, unless an operator has mounted something there.

    Nothing is mounted in /dev/shm, which is there for this; by an agent that is not root; or for a budget of 0.
    The size is the budget and a sixteenth more for what a file system needs.

    Raises:
        StorageError: the directory cannot be made, or the kernel refuses.
    """
    if not is_machine_root() or budget_bytes == 0 or directory.is_relative_to(_SHARED_MEMORY):
        yield
        return
    source = _mounted_source(directory)
    if source not in (None, _SOURCE):
        yield
        return
    options = f"{_OPTIONS},size={budget_bytes + budget_bytes // 16 + (4 << 20)}"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if source is not None and not _umount(directory):
            _mount(directory, options, _MS_REMOUNT)  # another pull is at work there
        else:
            _mount(directory, options, 0)
    except OSError as error:
        raise storage_error(f"mount a ramdisk at {directory}", error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not _umount(directory):
                _LOG.warning("the ramdisk %s stays mounted: somebody still uses it", directory)


def _mounted_source(directory: Path) -> str | None:
    """The source of what is mounted right there; None: nothing is."""
    target = os.path.realpath(directory)
    source = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4].encode().decode("unicode_escape") == target:
            source = fields[fields.index("-") + 2]  # the last one lies on top
    return source


def _mount(directory: Path, options: str, flags: int) -> None:
    target = os.fsencode(directory)
    _call("mount", _SOURCE.encode(), target, b"tmpfs", flags | _MS_NOSUID_NODEV_NOEXEC, options.encode())
    _call("mount", None, target, None, _MS_PRIVATE, None)


def _umount(directory: Path) -> bool:
    """False: it is in use."""
    try:
        _call("umount2", os.fsencode(directory), _UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _call(name: str, *arguments: bytes | int | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
