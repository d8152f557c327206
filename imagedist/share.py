"""What the worker processes of one service have in common: a directory that goes with them, and how many they are."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagedist.locking import PrivateDirectory

_METRICS = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class Share:
    """
    Attributes:
        workers: how many processes serve the port.
        directory: private to them, gone after them; None for a process that is alone.
    """

    workers: int = 1
    directory: Path | None = None

    def part(self, total: int) -> int:
        """One worker's part of a bound on all of them."""
        return -(-total // self.workers)


@contextlib.contextmanager
def shared(workers: int) -> Iterator[Share]:
    """Makes the directory and has prometheus-client count in it. Before that is imported: it decides then.

    What processes that were killed left behind is removed.

    Raises:
        StorageError: the directory cannot be made.
    """
    if workers == 1:
        yield Share()
        return
    base = Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or tempfile.gettempdir())
    private = PrivateDirectory(base / f"imagedist-workers-{os.geteuid()}")
    try:
        metrics = private.path / "metrics"
        metrics.mkdir()
        os.environ[_METRICS] = str(metrics)
        yield Share(workers, private.path)
    finally:
        os.environ.pop(_METRICS, None)
        private.close()
