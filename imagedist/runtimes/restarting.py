"""Restarting what was configured: only when told to, each unit once, containerd before those that use it."""

from __future__ import annotations

from collections.abc import Sequence

from imagedist.errors import InputError, SourceError
from imagedist.runtimes import asking
from imagedist.runtimes.report import Found

_TIMEOUT_SECONDS = 120


def commands(founds: Sequence[Found], keys: set[str]) -> list[tuple[str, ...]]:
    """What must run for these runtimes' files to hold, in order."""
    return list(dict.fromkeys(found.restart for found in founds if found.key in keys and found.restart))


def run(command: tuple[str, ...]) -> None:
    """Raises InputError: no such program here. SourceError: it failed; says what it said."""
    try:
        asking.run(command, _TIMEOUT_SECONDS)
    except InputError as error:
        raise InputError(f"{error}: restart it by your own means (`{' '.join(command)}`)") from error
    except SourceError as error:
        raise SourceError(f"{error}; `imagedist runtimes --undo` gives back what was there") from error
