"""The console script, and ``python -m imagedist``: the shortest way to what was asked for.

A pull by the agent, the command of which nodes run thousands, does without typer: a third of its whole time. The
snapshotter begins before it is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

from imagedist.garbage import importing


class _Pull(NamedTuple):
    reference: str
    socket: str | None
    as_json: bool


def main() -> None:
    """Does what the command line says; never returns."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    if sys.argv[1:2] == ["snapshotter"]:
        _greet()
    pull = _simple_pull(sys.argv[1:])
    if pull is not None:
        _pull_by_agent(pull)
    with importing():
        from imagedist.cli import main as any_command
    any_command()


def _greet() -> None:
    """containerd is given an answer within a second of the snapshotter's start, however long that takes."""
    with importing():
        from imagedist.ending import explained
        from imagedist.snapshotter import early
    with explained(False):
        early.begin()


def _simple_pull(words: Sequence[str]) -> _Pull | None:
    """Reads ``pull REFERENCE [--json] [--socket PATH]`` in any order; None: whatever else it is, typer reads it."""
    if not words or words[0] != "pull":
        return None
    references: list[str] = []
    socket, as_json = os.environ.get("IMAGEDIST_SOCKET"), False
    rest = iter(words[1:])
    for word in rest:
        if word == "--json":
            as_json = True
        elif word == "--socket":
            socket = next(rest, "-")
        elif word.startswith("-"):
            return None
        else:
            references.append(word)
    if len(references) != 1 or (socket or "").startswith("-"):
        return None
    return _Pull(references[0], socket or None, as_json)


def _pull_by_agent(pull: _Pull) -> None:
    """Returns only if there is no agent: the pull is this process's own then, and more has to be imported."""
    with importing():
        from pathlib import Path

        from imagedist import commands
        from imagedist.ending import explained
        from imagedist.oci.reference import Reference
    with explained(pull.as_json):
        reference = Reference.parse(pull.reference)
        socket = commands.find_socket(Path(pull.socket) if pull.socket else None)
        if socket is None:
            return
        commands.pull_by_agent(reference, None, socket, pull.as_json)
    sys.exit()


if __name__ == "__main__":
    main()
