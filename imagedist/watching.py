"""How a pull is watched: bars on a terminal, plain lines in a pipe, JSON lines for machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from imagedist.progress import Observer
from imagedist.render import Lines


@contextmanager
def watching(as_json: bool) -> Iterator[Observer]:
    """An observer that suits standard output."""
    if as_json:
        yield lambda event: print(event.line(), flush=True)
    elif sys.stdout.isatty():
        from imagedist.bars import Bars  # here: rich takes as long to import as a small pull by the agent

        with Bars() as bars:
            yield bars
    else:
        yield Lines()
