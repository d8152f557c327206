"""Running a runtime's programs: asked what it is, one that does not answer is no error; told to do something, it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import InputError, SourceError

_ASK_TIMEOUT_SECONDS = 10
_READ_LIMIT_BYTES = 4 << 20


class HangError(SourceError):
    """A program did not end within its time."""


def is_installed(program: str) -> bool:
    return shutil.which(program) is not None


def ask(*command: str) -> str:
    """What a program prints, or nothing."""
    try:
        return _done(command, _ASK_TIMEOUT_SECONDS).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def run(command: Sequence[str], timeout_seconds: float) -> str:
    """What a program prints that must succeed.

    Raises:
        InputError: it is not here. SourceError: it failed. HangError: it did not end in time, and was killed.
    """
    words = " ".join(command[:3])
    try:
        done = _done(command, timeout_seconds)
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise HangError(f"`{words}` did not end within {timeout_seconds:g} s") from error
    except OSError as error:
        raise SourceError(f"`{words}` did not end: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SourceError(f"`{words}` failed: {said}")
    return done.stdout.strip()


def _done(command: Sequence[str], timeout_seconds: float) -> subprocess.CompletedProcess[str]:
    """A program that ended, or was killed with all it had started: whatever holds its output cannot hold us.

    Raises:
        OSError: it cannot be started. TimeoutExpired.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, complaint = process.communicate(timeout=timeout_seconds)
        except BaseException:
            end(process.pid)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, complaint)


def end(leader: int) -> None:
    """Kills a program that leads a session of its own, and what it has started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def glance(path: Path) -> str:
    """A configuration file's text, or nothing: whoever edits it says what is wrong with it."""
    try:
        if not path.is_file() or path.stat().st_size > _READ_LIMIT_BYTES:
            return ""
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
