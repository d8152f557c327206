"""Who has what open, or is inside of it: processes, and with them their links, go while one looks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def links() -> Iterator[tuple[Path, str]]:
    """Of every process its network namespace and its open descriptors, each with what it is of, such as ``net:[4026]``.

    ``Path.glob`` would raise FileNotFoundError for a process that ends between two of its steps (Python 3.11).
    """
    for process in filter(str.isdigit, os.listdir("/proc")):
        directory = Path("/proc") / process
        found = [directory / "ns/net"]
        with suppress(OSError):
            found += [directory / "fd" / name for name in os.listdir(directory / "fd")]
        for link in found:
            try:
                target = os.readlink(link)
            except OSError:
                continue
            yield link, target
