"""What is wrong is told before anything starts: root, memory, disk, and where the result is to go."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.contestant import Contestant
from bench.image_choice import ImageChoice
from bench.network import why_not
from bench.places import file_system
from bench.processes import missing
from bench.session import Settings
from imagedist.errors import InputError

_STORE_TIMES, _BUILD_TIMES = 6, 5
"""Bytes of a store, and of an image being built, by its compressed bytes: unpacked files, blobs, staged tars."""
_LEAST_BYTES = 500_000_000
"""Memory for daemons and agents."""


def check_file(file: Path | None) -> None:
    """Raises InputError: no result can be written there."""
    if file is None or str(file) == "-":
        return
    expected = f"cannot write the result {file}: expected a file in a directory that is there and writable"
    if file.is_dir():
        raise InputError(expected)
    try:
        tempfile.TemporaryFile(dir=file.absolute().parent).close()
    except OSError as error:
        raise InputError(expected) from error


def check_report(page: Path | None) -> None:
    """Raises InputError: what draws it is not installed, or it cannot be written."""
    if absent := [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]:
        raise InputError(f"a report needs {' and '.join(absent)}: pip install 'imagedist[bench]'")
    check_file(page)


def check_root(what: str) -> None:
    """Raises InputError: not root."""
    if os.geteuid() != 0:
        raise InputError(f"{what} needs root: run it with sudo")


def need(what: str, *programs: str, is_network: bool = False, memory_bytes: int = 0) -> None:
    """
    Args:
        is_network: whether a test network is made.
        memory_bytes: that everything together will take.

    Raises:
        InputError: a program is missing, there can be no test network, or there is too little memory.
    """
    if is_network:
        check_root(what)
    if (reason := missing(*programs) or (why_not() if is_network else None)) is not None:
        raise InputError(f"cannot measure {what}: {reason}")
    check_memory(memory_bytes + _LEAST_BYTES, f"measuring {what}", "measure less")


def check(settings: Settings, contestants: Sequence[Contestant], images: int = 1) -> None:
    """Says who will not run and why.

    Args:
        images: how many the registry will hold.

    Raises:
        InputError: not an image, or too little memory or disk for it.
    """
    choice = ImageChoice.parse(settings.image)
    for one in contestants:
        if reason := one.cannot():
            settings.say(f"will not run: {one.name}: {reason}")
    size_bytes = choice.approximate_bytes
    if size_bytes is None:
        return  # its registry knows
    store_bytes = _STORE_TIMES * size_bytes
    if settings.ext4_bytes is not None and settings.ext4_bytes < store_bytes:
        raise InputError(
            f"--ext4 of {_gb(settings.ext4_bytes)} is too small: {settings.image} needs {_gb(store_bytes)}; "
            "take a smaller image or a larger --ext4"
        )
    in_memory = images * size_bytes + _LEAST_BYTES
    if _is_memory(settings.store):
        in_memory += store_bytes
    check_memory(in_memory, f"measuring {settings.image}", "take a smaller image, or a --store on a disk")
    remedy = f"{settings.image} needs {{}}; take a smaller image or another --store"
    check_disk(settings.store, store_bytes, "stores", remedy)
    check_images(choice, settings.cache)


def check_memory(need_bytes: int, what: str, remedy: str) -> None:
    """Raises InputError: less is available."""
    with open("/proc/meminfo") as lines:
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if need_bytes > available:
        raise InputError(f"{what} needs {_gb(need_bytes)} of memory, {_gb(available)} are available: {remedy}")


def check_images(choice: ImageChoice, cache: Path) -> None:
    """Raises InputError: too little disk to build it."""
    if choice.approximate_bytes is not None and not (cache / choice.base).exists():
        remedy = f"{choice.base} needs {{}}; take a smaller image or another --cache"
        check_disk(cache, _BUILD_TIMES * choice.approximate_bytes, "images", remedy)


def check_disk(directory: Path, need_bytes: int, what: str, remedy: str) -> None:
    """
    Args:
        remedy: with ``{}`` for what is needed.

    Raises:
        InputError: less is free.
    """
    free = shutil.disk_usage(_there(directory)).free
    if need_bytes > free:
        raise InputError(f"{directory} has {_gb(free)} free for {what}: {remedy.format(_gb(need_bytes))}")


def _is_memory(directory: Path) -> bool:
    return file_system(_there(directory)).startswith(("tmpfs", "ramfs"))


def _there(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if path.exists())


def _gb(count_bytes: int) -> str:
    return f"{count_bytes / 1e9:.1f} GB"
