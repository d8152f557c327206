"""The worker process: reads a request from its standard input, does it, answers on its standard output."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from imagedist.errors import ImagedistError, StorageError
from imagedist.unpack.lead import Layers
from imagedist.unpack.placement import Placement

_PR_SET_PDEATHSIG = 1
LENGTH = struct.Struct("<Q")


def main(parent: int, placement: Placement) -> None:
    """Serves until standard input ends. The kernel kills it when the thread that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before the line above
    placement.apply_to_process()
    gc.disable()  # its passes over a big layer's tree cost a tenth of the time and find nothing
    gc.freeze()  # nor does the one at a layer's end look at what was imported
    layers = Layers()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.read(LENGTH.size):
        name, arguments = pickle.loads(requests.read(*LENGTH.unpack(header)))
        before = time.monotonic(), _busy_seconds()
        result = _answer(getattr(layers, name), arguments)
        took = time.monotonic() - before[0], _busy_seconds() - before[1]
        content = pickle.dumps((result, *took), pickle.HIGHEST_PROTOCOL)
        answers.write(LENGTH.pack(len(content)) + content)
        answers.flush()
    os._exit(0)  # the interpreter would take itself apart first, and whoever ends this process waits for that: 20 ms


def _busy_seconds() -> float:
    """On a CPU or waiting for one; the rest is waiting for a disk (proc(5), schedstat)."""
    try:
        with open("/proc/self/schedstat") as file:
            on_cpu, queued, _ = file.read().split()
    except (OSError, ValueError):
        return time.process_time()
    return (int(on_cpu) + int(queued)) / 1e9


def _answer(request: Callable[..., Any], arguments: Sequence[object]) -> object:
    try:
        return request(*arguments)
    except ImagedistError as error:
        return error
    except Exception as error:
        return StorageError(f"unpack worker failed: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]), Placement.parse(sys.argv[2]))
