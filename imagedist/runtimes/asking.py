"""Running a runtime's programs: asked what it is, one that does not answer is no error; told to do something, it is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import InputError, SourceError

_ASK_TIMEOUT_SECONDS = 10
_READ_LIMIT_BYTES = 4 << 20


def is_installed(program: str) -> bool:
    return shutil.which(program) is not None


def ask(*command: str) -> str:
    """What a program prints, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout.strip()


def run(command: Sequence[str], timeout_seconds: float) -> str:
    """What a program prints that must succeed. Raises InputError: it is not here. SourceError: it failed, or hangs."""
    words = " ".join(command[:3])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_seconds, check=False
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed on this machine") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"`{words}` did not end: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SourceError(f"`{words}` failed: {said}")
    return done.stdout.strip()


def glance(path: Path) -> str:
    """A configuration file's text, or nothing: whoever edits it says what is wrong with it."""
    try:
        if not path.is_file() or path.stat().st_size > _READ_LIMIT_BYTES:
            return ""
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
