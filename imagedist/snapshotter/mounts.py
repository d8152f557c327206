"""The mounts of a snapshot, as containerd's overlay snapshotter makes them. Pure: nothing is mounted here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imagedist.snapshotter.snapshot import Kind, Mount

INDEX_SWITCH = Path("/sys/module/overlay/parameters/index")
"""Where the kernel knows overlayfs' index, it must be off: a lower directory is in many mounts at a time."""


def mounts(
    kind: Kind, directory: Path, lowers: Sequence[Path], options: Sequence[str], mapping: Sequence[str] = ()
) -> tuple[Mount, ...]:
    """A bind mount for nothing to overlay, else an overlay.

    Args:
        kind: active or view.
        directory: the snapshot's own, with ``fs`` and ``work``.
        lowers: uppermost first, and all of them in one directory: what is longer than a page (4096 bytes) containerd
            mounts from there by their last names, which fits 128 names of the store's 26 characters.
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
