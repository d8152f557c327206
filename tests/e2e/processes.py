"""Real processes under test: started with a log of their own, awaited, stopped by id, gone when the tests are."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PROJECT = Path(__file__).parents[2]
_STOP_TIMEOUT_SECONDS = 20.0
_POLL_SECONDS = 0.05


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """This process's own, with no HTTP proxy in the way to 127.0.0.0/8."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "PYTHONPATH": str(_PROJECT), "PYTHONUNBUFFERED": "1", **(env or {})}


class Process:
    """One long-running process. It dies with the test run, even when that is killed (PR_SET_PDEATHSIG).

    Args:
        descriptors: what it inherits besides the usual three.
    """

    def __init__(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None, descriptors: Sequence[int] = ()
    ) -> None:
        self.argv = list(argv)
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(env),
                start_new_session=True,
                pass_fds=descriptors,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to its whole process group; returns when it has ended."""
        if self.is_running():
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def wait_until(self, is_ready: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> None:
        """Polls until ready; fails with the end of the log when the process ends or the time is up."""
        deadline = time.monotonic() + timeout_seconds
        while not is_ready():
            if not self.is_running() or time.monotonic() > deadline:
                state = "is not" if self.is_running() else f"ended ({self._process.returncode}) before it was"
                tail = self.log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"{what} {state} ready: {' '.join(self.argv)}\n{tail}")
            time.sleep(_POLL_SECONDS)


def run(
    argv: Sequence[str], env: Mapping[str, str] | None = None, timeout_seconds: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Runs a client to its end with its output captured; a hung one is killed and fails the test."""
    return subprocess.run(
        list(argv),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment(env),
        timeout=timeout_seconds,
        check=False,
    )


def succeed(
    argv: Sequence[str], env: Mapping[str, str] | None = None, timeout_seconds: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """``run``, for a client that must end with 0; else the test fails with what it said."""
    done = run(argv, env, timeout_seconds)
    assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


def answers(url: str) -> bool:
    """Whether a URL answers with a status below 400."""
    try:
        with urllib.request.urlopen(url, timeout=30):
            return True
    except (urllib.error.URLError, OSError):
        return False


def listens(path: Path) -> bool:
    """Whether somebody takes connections at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as trial:
        return trial.connect_ex(str(path)) == 0
