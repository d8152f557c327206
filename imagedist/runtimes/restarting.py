"""Restarting what was configured: only when told to, each unit once, containerd before those that use it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from imagedist.errors import InputError, SourceError
from imagedist.runtimes.report import Found

_TIMEOUT_SECONDS = 120


def commands(founds: Sequence[Found], keys: set[str]) -> list[tuple[str, ...]]:
    """What must run for these runtimes' files to hold, in order."""
    return list(dict.fromkeys(found.restart for found in founds if found.key in keys and found.restart))


def run(command: tuple[str, ...]) -> None:
    """Raises InputError: no such program here. SourceError: it failed; says what it said."""
    words = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not on this machine: restart it by your own means (`{words}`)") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"`{words}` did not end: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SourceError(f"`{words}` failed: {said}; `imagedist runtimes --undo` gives back what was there")
