"""Progress, on standard error: lines as they come; on a terminal also the time since the beginning and to the end."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

_ROUND = re.compile(r"round (\d+) of (\d+)")


class Progress:
    """Call it with a line.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._console: Console | None = None
        self._begun = clock()
        self._round, self._rounds = 0, 0
        self._first_round = self._this_round = 0.0

    def __call__(self, line: str) -> None:
        if found := _ROUND.search(line):
            self._count(int(found[1]), int(found[2]))
        if self._console is not None:
            self._console.print(Text(f"{_clock_of(self._clock() - self._begun)} {line}"))
        else:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def shown(self, console: Console | None = None) -> Iterator[None]:
        """Where standard error is a terminal, its last line tells the time while the block runs."""
        console = console or Console(stderr=True)
        if not console.is_terminal:
            yield
            return
        self._console, self._begun = console, self._clock()
        live = Live(
            get_renderable=lambda: Text(self.status(), style="dim"),
            console=console,
            refresh_per_second=1,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        try:
            with live:
                yield
        finally:
            self._console = None

    def status(self) -> str:
        """Time since the beginning; from the second round on about how much there is to come of these rounds."""
        now = self._clock()
        said = f"{_clock_of(now - self._begun)} elapsed"
        if self._round < 2:
            return said
        each = (self._this_round - self._first_round) / (self._round - 1)
        left = each * (self._rounds - self._round + 1) - (now - self._this_round)
        return f"{said}, round {self._round} of {self._rounds}, about {_clock_of(max(left, 0))} of these rounds left"

    def _count(self, number: int, of: int) -> None:
        if number < self._round or of != self._rounds:
            self._round = 0
        if number != self._round:
            self._this_round = self._clock()
            if not self._round:
                self._first_round = self._this_round
            self._round, self._rounds = number, of


def _clock_of(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
