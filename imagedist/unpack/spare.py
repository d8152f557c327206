"""Idle CPUs: who may run something beside, so that a lone layer uses the whole machine and many do not overload it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


class SpareCpus:
    """Counts who decodes; a task is taken only while fewer do than there are CPUs. One per process.

    Workers are not counted: a lone fat layer is decoded by one thread while both CPUs have a worker, and with its
    hashing and writing in another thread it took 6.1 s instead of 7.9.

    Args:
        count: CPUs that may be used.
        initializer: runs first in each thread (its placement).
    """

    def __init__(self, count: int, initializer: Callable[[], None] | None = None) -> None:
        self._count = count
        self._busy = 0
        self._is_closed = False
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max(count, 1), thread_name_prefix="spare", initializer=initializer)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around work that happens elsewhere: one CPU less is idle."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            self._done()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within ``busy``, around a wait: the CPU is idle meanwhile."""
        self._done()
        try:
            yield
        finally:
            with self._lock:
                self._busy += 1

    def try_run(self, task: Callable[[], None]) -> bool:
        """Runs ``task`` at once in another thread. False: no CPU is idle or no thread to be had, the caller does it."""
        with self._lock:
            if self._is_closed or self._busy >= self._count:
                return False
            self._busy += 1
        claim = threading.Lock()
        try:
            self._threads.submit(self._run, task, claim)
        except RuntimeError:  # the pool may keep a task for which it could not start a thread
            if claim.acquire(blocking=False):
                self._done()
                return False
        return True

    def close(self) -> None:
        """Waits for running tasks; later ones are refused."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=True)

    def _run(self, task: Callable[[], None], claim: threading.Lock) -> None:
        if not claim.acquire(blocking=False):
            return  # the caller does it
        try:
            task()
        finally:
            self._done()

    def _done(self) -> None:
        with self._lock:
            self._busy -= 1
