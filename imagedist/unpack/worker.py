"""The worker process: reads a task from its standard input, extracts, answers on its standard output."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import struct
import sys

from imagedist.errors import ImagedistError, StorageError
from imagedist.unpack.extract import ExtractedLayer, extract_layer

_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct("<Q")


def main(parent: int, nice: int, cpus: frozenset[int]) -> None:
    """Serves until standard input ends. The kernel kills it when the thread that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before the line above
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    if nice:
        os.nice(nice)
    if cpus:
        os.sched_setaffinity(0, cpus)
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    while header := tasks.read(_LENGTH.size):
        tar_path, directory = pickle.loads(tasks.read(*_LENGTH.unpack(header)))
        answer: ExtractedLayer | ImagedistError
        try:
            answer = extract_layer(tar_path, directory)
        except ImagedistError as error:
            answer = error
        except Exception as error:
            answer = StorageError(f"unpack worker failed: {type(error).__name__}: {error}")
        content = pickle.dumps(answer)
        answers.write(_LENGTH.pack(len(content)) + content)
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), frozenset(int(cpu) for cpu in sys.argv[3].split(",") if cpu))
