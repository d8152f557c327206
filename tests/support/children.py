"""The processes that a process has started, as the kernel lists them: by thread, and threads come and go meanwhile."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from tests.support.waiting import wait_until


def children(pid: int) -> list[int]:
    """Those that nobody has waited for, in order; none of a process that has ended."""
    found: list[int] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
    for thread in threads:
        try:
            found += map(int, (thread / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # it has ended: its children are another thread's now
            continue
    return sorted(found)


def wait_for_children(count: int, pid: int | None = None, besides: Collection[int] = ()) -> list[int]:
    """Children, once there are so many: where threads start them, each does as it gets round to it.

    Args:
        pid: of their parent; None: this process.
        besides: these do not count: another test's.
    """

    def found() -> list[int]:
        return [child for child in children(pid or os.getpid()) if child not in besides]

    wait_until(lambda: len(found()) >= count, f"{count} children")
    return found()
