"""One machine as two: CPUs for what would run on the measured one, and the others for all the rest of a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def halves() -> tuple[frozenset[int], frozenset[int]]:
    """The CPUs that this process may use, in two sets; both have the same one if there is no other."""
    cpus = sorted(os.sched_getaffinity(0))
    middle = len(cpus) // 2
    return frozenset(cpus[:middle] or cpus), frozenset(cpus[middle:])


@contextmanager
def on(cpus: frozenset[int]) -> Iterator[None]:
    """The calling thread, and whatever it starts, runs on these until the block ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
