"""One worker process, seen from its parent: started, asked, ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import imagedist
from imagedist.errors import StorageError
from imagedist.unpack.placement import Placement
from imagedist.unpack.worker import LENGTH

_FLAGS = ("-P", "-S", "-X", "utf8")
"""Not the directory it is started in, and nothing of ``site``: the parent has found all paths already. 15 of 80 ms."""
_SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(imagedist.__file__)))
"""On no path in a development tree: a hook of ``site`` finds it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To one request.

    Attributes:
        result: what it returned or raised.
        seconds / busy_seconds: what it took, and how much of that the process was on a CPU or waited for one.
    """

    result: Any = None
    seconds: float = 0.0
    busy_seconds: float = 0.0


class WorkerProcess:
    """Belongs to the thread that makes it: the kernel ends the process when that thread ends.

    Raises:
        StorageError: it cannot be started.
    """

    def __init__(self, placement: Placement) -> None:
        arguments = [str(os.getpid()), placement.to_argument()]
        # Ctrl-C reaches the whole group, and a worker that is just starting, too: the parent alone decides.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # Not multiprocessing: a spawned process would import the caller's whole main module first.
            self._process = subprocess.Popen(
                [sys.executable, *_FLAGS, "-m", "imagedist.unpack.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_SOURCE, *sys.path]))},
            )
        except OSError as error:
            raise StorageError(f"cannot start an unpack worker: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ask(self, request: str, arguments: tuple[object, ...]) -> Answer:
        """Sends a request of ``worker.Layers`` and waits for the answer.

        Raises:
            WorkerGoneError: the process ended; start another.
        """
        assert self._process.stdin
        assert self._process.stdout
        content = pickle.dumps((request, arguments), pickle.HIGHEST_PROTOCOL)
        try:
            self._process.stdin.write(LENGTH.pack(len(content)) + content)
            self._process.stdin.flush()
            answer = Answer(*pickle.loads(self._read(*LENGTH.unpack(self._read(LENGTH.size)))))
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise WorkerGoneError(f"unpack worker ended ({self.end()}): free some memory and try again") from error
        return answer

    def _read(self, size_bytes: int) -> bytes:
        assert self._process.stdout
        content = self._process.stdout.read(size_bytes)
        if len(content) < size_bytes:
            raise EOFError
        return content

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def end(self) -> str:
        """Closes its standard input, upon which it ends, and says how it ended."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(OSError):  # what a dead process left unread
            self._process.stdin.close()
        code = self._process.wait()
        self._process.stdout.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class WorkerGoneError(StorageError):
    """The worker process ended by itself, or somebody ended it."""
