"""What this process may do to files: as root of the machine, as root of a user namespace, or as an ordinary user.

Root of a user namespace (user_namespaces(7)) gives files to any id the namespace maps, but makes no devices, and the
``trusted.`` xattrs are denied to it: overlayfs then has marks in ``user.`` (mount option ``userxattr``).
"""

from __future__ import annotations

import os
from pathlib import Path

_UID_MAP = Path("/proc/self/uid_map")
_ALL_IDS = 4294967295


def may_give_away() -> bool:
    """Whether files may get the owners that a layer says."""
    return os.geteuid() == 0


def is_machine_root() -> bool:
    """Root outside of every user namespace: may make devices, and set overlayfs' trusted marks."""
    return os.geteuid() == 0 and _uid_map()[:1] == [(0, 0, _ALL_IDS)]


def user_id() -> int:
    """Who this process is outside of its user namespace."""
    inside = os.geteuid()
    for first, outside, length in _uid_map():
        if first <= inside < first + length:
            return outside + inside - first
    return inside


def opaque_mark() -> str:
    """The xattr by which overlayfs knows an opaque directory that this process makes."""
    return "trusted.overlay.opaque" if is_machine_root() else "user.overlay.opaque"


def _uid_map() -> list[tuple[int, int, int]]:
    """First id inside, first id outside, length; as uid_map has it."""
    rows = (line.split() for line in _UID_MAP.read_text().splitlines())
    return [(int(inside), int(outside), int(length)) for inside, outside, length in rows]
