"""The mounts of a snapshot, as containerd's overlay snapshotter makes them. Pure: nothing is mounted here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.snapshotter.snapshot import Kind, Mount

INDEX_SWITCH = Path("/sys/module/overlay/parameters/index")
"""Where the kernel knows overlayfs' index, it must be off: a lower directory is in many mounts at a time."""

_PAGE_BYTES = 4096
_COMPACTED_BYTES = _PAGE_BYTES - 512
"""containerd names lower directories from the one they have in common, once the options are so long."""


@dataclass(frozen=True, slots=True)
class Lower:
    """A lower directory.

    Attributes:
        short: a symlink to it, in the one directory that all these are in.
        is_own: containerd committed it; else it is a layer of the store.
    """

    path: Path
    short: Path
    is_own: bool


def lower_names(lowers: Sequence[Lower]) -> list[Path]:
    """How to name lower directories: as they are, as long as all fit into the one page that a mount's options have.

    BuildKit walks the directory of a committed snapshot, whose path it has from these options, and does not follow a
    symlink: it would take the snapshot for empty. So containerd's own are named by theirs only if there is no other
    way, with more than 120 layers.
    """
    room_bytes = _PAGE_BYTES - _COMPACTED_BYTES  # for all the other options
    paths = [lower.path for lower in lowers]
    if _length_bytes(paths) + room_bytes < _COMPACTED_BYTES:
        return paths
    mixed = [lower.path if lower.is_own else lower.short for lower in lowers]
    below_bytes = len(os.path.commonpath([path.parent for path in mixed])) + 1
    if _length_bytes(mixed) - below_bytes * len(mixed) + room_bytes < _PAGE_BYTES:
        return mixed
    return [lower.short for lower in lowers]


def _length_bytes(paths: Sequence[Path]) -> int:
    return sum(len(os.fsencode(path)) + 1 for path in paths)


def mounts(
    kind: Kind, directory: Path, lowers: Sequence[Path], options: Sequence[str], mapping: Sequence[str] = ()
) -> tuple[Mount, ...]:
    """A bind mount for nothing to overlay, else an overlay.

    Args:
        kind: active or view.
        directory: the snapshot's own, with ``fs`` and ``work``.
        lowers: uppermost first.
        options: for every overlay. mapping: of users, for every mount (``idmap``).
    """
    is_view = kind is Kind.VIEW
    if not lowers:
        return (Mount("bind", str(directory / "fs"), (*mapping, "ro" if is_view else "rw", "rbind")),)
    if is_view and len(lowers) == 1:
        return (Mount("bind", str(lowers[0]), (*mapping, "ro", "rbind")),)
    upper = () if is_view else (f"workdir={directory / 'work'}", f"upperdir={directory / 'fs'}")
    lower = f"lowerdir={':'.join(map(str, lowers))}"
    return (Mount("overlay", "overlay", (*mapping, *upper, lower, *options)),)


def overlay_options() -> tuple[str, ...]:
    """What every overlay mount of this machine needs."""
    return ("index=off",) if INDEX_SWITCH.exists() else ()
