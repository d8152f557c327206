"""Asking a runtime's program what it is: one that does not answer is not an error here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

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


def glance(path: Path) -> str:
    """A configuration file's text, or nothing: whoever edits it says what is wrong with it."""
    try:
        if not path.is_file() or path.stat().st_size > _READ_LIMIT_BYTES:
            return ""
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
