"""Outlives a benchmark that was killed: its processes, mounts and directories go, whatever ended it.

``python -m bench.janitor OWNER STORE WHETHER-IT-IS-NEW`` waits for the owner's death, or its word that all is done.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.account import abandoned_cgroups
from bench.directories import abandoned_directories, remove_abandoned
from bench.places import remove_place
from imagedist.errors import ImagedistError

_END_SECONDS = 20.0
_POLL_SECONDS = 0.05
_WAIT_SECONDS = 60.0
_DONE = b"."


@contextmanager
def janitor(store: Path) -> Iterator[None]:
    """Cleans up after this process if it is killed while the block runs, or interrupted: that may come between any two
    steps, so what the block did not clean up itself goes once this process has ended.

    Args:
        store: where places for stores are made.
    """
    command = [sys.executable, "-m", "bench.janitor", str(os.getpid()), str(store), str(int(not store.exists()))]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,  # Ctrl-C is for us
    )
    is_interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        is_interrupted = True  # the pipe ends with this process
        raise
    finally:
        if not is_interrupted:
            process.communicate(_DONE, _WAIT_SECONDS)


def main(owner: int, store: Path, is_new: bool) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not _is_killed(owner):
        return
    deadline = time.monotonic() + _END_SECONDS
    while not _is_clean(store, is_new) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _is_killed(owner: int) -> bool:
    """Waits until the owner says that it is done, or is gone."""
    try:
        death = os.pidfd_open(owner)
    except ProcessLookupError:
        return True
    # Its death counts as well as the pipe: a child that it forked may hold the other end.
    ready = select.select([death, sys.stdin], [], [])[0]
    if sys.stdin in ready and os.read(sys.stdin.fileno(), 1) == _DONE:
        return False
    select.select([death], [], [])
    return True


def _is_clean(store: Path, is_new: bool) -> bool:
    """Cleans up; False: something is in use by a process that ends at this moment, or began as its owner died."""
    try:
        remove_abandoned()
        remove_place(store, is_new)
    except (ImagedistError, OSError):
        return False
    return not abandoned_cgroups() and not abandoned_directories()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1")
