"""Warm worker processes that extract layers. They end with their parent, even when it is killed."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from imagedist.errors import StorageError
from imagedist.unpack.extract import ExtractedLayer
from imagedist.unpack.stage import StagedTar

__all__ = ["ExtractedLayer", "Workers"]

_LENGTH = struct.Struct("<Q")
_Task = tuple["Future[ExtractedLayer]", Path, Path]


class Workers:
    """``count`` processes, started at once; extraction is system calls under the GIL, so threads would not do.

    Args:
        nice: added to the niceness, 0 to 19.
        cpus: the CPUs they may run on; None: where this process may.
    """

    def __init__(self, count: int, nice: int = 0, cpus: frozenset[int] | None = None) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(nice, cpus), name=f"unpack-{number}", daemon=True)
            for number in range(max(count, 1))
        ]
        for thread in self._threads:
            thread.start()

    def extract(self, staged: StagedTar, directory: Path) -> Future[ExtractedLayer]:
        """Extracts into ``directory`` (there, empty). The caller releases the staged tar when the future is done.

        The future raises UnacceptableError or StorageError; cancelling it works until a worker took the task.
        """
        return self.extract_file(staged.path, directory)

    def extract_file(self, tar_path: Path, directory: Path) -> Future[ExtractedLayer]:
        """The same for an uncompressed tar that is not staged."""
        if self._is_closed:
            raise StorageError("cannot extract: the workers were closed")
        future: Future[ExtractedLayer] = Future()
        self._tasks.put((future, tar_path, directory))
        return future

    def close(self) -> None:
        """Lets running tasks finish and ends the processes. Tasks not begun are cancelled."""
        if self._is_closed:
            return
        self._is_closed = True
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is not None:
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, nice: int, cpus: frozenset[int] | None) -> None:
        """One thread per process. It also starts it: the kernel ends the process when this very thread ends."""
        process: subprocess.Popen[bytes] | None = None
        failure: OSError | None = None
        try:
            process = _start(nice, cpus)
        except OSError as error:
            failure = error
        while (task := self._tasks.get()) is not None:
            future, tar_path, directory = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if process is None:
                    process = _start(nice, cpus)
                result = _ask(process, tar_path, directory)
            except (OSError, EOFError) as error:
                cause = _end(process) if process is not None else failure
                process = None
                future.set_exception(
                    StorageError(f"unpack worker ended ({cause}): {error}; free some memory and try again")
                )
            except Exception as error:  # whatever the worker raised belongs to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)
        if process is not None:
            _end(process)


def _start(nice: int, cpus: frozenset[int] | None) -> subprocess.Popen[bytes]:
    arguments = [str(os.getpid()), str(nice), ",".join(map(str, sorted(cpus or ())))]
    # Not multiprocessing: a spawned process would import the caller's whole main module first.
    return subprocess.Popen(
        [sys.executable, "-P", "-X", "utf8", "-m", "imagedist.unpack.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _end(process: subprocess.Popen[bytes]) -> str:
    """Closes its standard input, upon which it ends, and says how it ended."""
    assert process.stdin
    assert process.stdout
    with contextlib.suppress(OSError):  # what a dead process left unread
        process.stdin.close()
    code = process.wait()
    process.stdout.close()
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _ask(process: subprocess.Popen[bytes], tar_path: Path, directory: Path) -> ExtractedLayer:
    assert process.stdin
    assert process.stdout
    request = pickle.dumps((tar_path, directory))
    process.stdin.write(_LENGTH.pack(len(request)) + request)
    process.stdin.flush()
    header = process.stdout.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError("it gave no answer")
    (length,) = _LENGTH.unpack(header)
    answer = process.stdout.read(length)
    if len(answer) < length:
        raise EOFError("its answer was cut off")
    result = pickle.loads(answer)
    if isinstance(result, BaseException):
        raise result
    if not isinstance(result, ExtractedLayer):
        raise StorageError(f"unpack worker gave {type(result).__name__}: expected an extracted layer")
    return result
