"""The most memory that a group of processes held at one time, and its ramdisk: watched from outside while it works."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

from bench.account import Account

PEAKS_SECONDS = 0.01
"""Between two looks where peaks are what is measured."""
_LEAST_SECONDS, _SHARE_BETWEEN_LOOKS = 0.002, 0.05
"""What is over in a moment is looked at as often, for its length, as what lasts: a pull of some bytes takes 0.1 s."""
_BLOCK_BYTES = 512


class Peaks:
    """Watches in a thread while its block runs.

    Anonymous memory is RssAnon of proc(5): what a process cannot give back; pages of tmpfs files are not in it.

    Args:
        interval_seconds: between two looks, at most; at the beginning they are closer.
    """

    def __init__(self, account: Account, ramdisk: Path | None, interval_seconds: float = PEAKS_SECONDS) -> None:
        self._account = account
        self._ramdisk = ramdisk
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peaks", daemon=True)
        self._largest_process_bytes = 0
        self._anonymous_bytes = 0
        self._ramdisk_bytes = 0
        self.together_bytes = 0
        """Of all processes and the ramdisk at one moment, at most."""

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def figures(self) -> dict[str, float]:
        """``peak_process_anonymous_bytes``, ``peak_anonymous_bytes`` of all together, ``peak_ramdisk_bytes``."""
        found = {
            "peak_process_anonymous_bytes": float(self._largest_process_bytes),
            "peak_anonymous_bytes": float(self._anonymous_bytes),
        }
        return found if self._ramdisk is None else found | {"peak_ramdisk_bytes": float(self._ramdisk_bytes)}

    def _watch(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(self._until_next_look(time.monotonic() - started)):
            each = [anonymous_bytes(process) for process in self._account.processes()]
            ramdisk = held_bytes(self._ramdisk) if self._ramdisk else 0
            self._largest_process_bytes = max(self._largest_process_bytes, *each, 0)
            self._anonymous_bytes = max(self._anonymous_bytes, sum(each))
            self._ramdisk_bytes = max(self._ramdisk_bytes, ramdisk)
            self.together_bytes = max(self.together_bytes, sum(each) + ramdisk)

    def _until_next_look(self, passed_seconds: float) -> float:
        return min(self._interval_seconds, max(_LEAST_SECONDS, _SHARE_BETWEEN_LOOKS * passed_seconds))


def anonymous_bytes(process: int) -> int:
    """RssAnon of a process; 0 when it is gone."""
    try:
        with open(f"/proc/{process}/status") as lines:
            return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)
    except (OSError, ProcessLookupError):
        return 0


def held_bytes(directory: Path) -> int:
    """Bytes that the files below a directory hold; holes, and files removed meanwhile, do not count."""
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * _BLOCK_BYTES
            except OSError:
                continue
    return total
