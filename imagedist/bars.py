"""On a terminal: a pull's row for each missing layer, with a bar for each stage; a text afresh. The owner of rich."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imagedist.plain import plain
from imagedist.progress import Event
from imagedist.render import decimal, opening, summary

_BAR_WIDTH = 14
_TEXT_WIDTH = 68  # of a row without its two bars
_COLUMNS = 8
_REDRAWS_PER_SECOND = 8
_REFRESH_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class _Row:
    """One layer. Decoding has no known end until the blob is here, so it shows an amount, not a bar."""

    short: str
    size_bytes: int
    fetched_bytes: int = 0
    decoded_bytes: int = 0
    extracted_bytes: int = 0
    is_extracted: bool = False
    is_merged: bool = False

    @property
    def state(self) -> str:
        if self.is_merged:
            return "merged"
        if self.is_extracted:
            return "waits to merge"
        if self.fetched_bytes >= self.size_bytes:
            return "extracting" if self.extracted_bytes else "decoding"
        return "fetching" if self.fetched_bytes else "waiting"


class Bars:
    """An observer and a context: what it shows stays on the screen when the context is left."""

    def __init__(self, console: Console | None = None) -> None:
        self._rows: dict[str, _Row] = {}
        self._merged = 0
        self._live = Live(
            self, console=console, auto_refresh=True, refresh_per_second=_REDRAWS_PER_SECOND, redirect_stderr=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many rows as the screen has, a line each; merged layers make room first."""
        if not self._rows:
            return
        table = Table.grid(padding=(0, 1))
        for _ in range(_COLUMNS):
            table.add_column(no_wrap=True)
        bar_width = max(0, min(_BAR_WIDTH, (console.width - _TEXT_WIDTH) // 2))
        rows = sorted(self._rows.values(), key=lambda row: row.is_merged)
        room = max(console.height - 2, 1)
        shown = rows if len(rows) <= room else rows[: room - 1]
        for row in [row for row in self._rows.values() if row in shown]:
            table.add_row(
                row.short,
                "fetch",
                _bar(row.fetched_bytes, row.size_bytes, row.is_merged, bar_width),
                decimal(row.size_bytes),
                f"decode {decimal(row.decoded_bytes)}",
                "extract",
                _bar(row.extracted_bytes, row.decoded_bytes, row.is_extracted, bar_width),
                row.state,
            )
        yield table
        if len(shown) < len(rows):
            merged = sum(row.is_merged for row in rows)
            yield Text(f"and {len(rows) - len(shown)} more; {merged} of {len(rows)} merged")

    def __call__(self, event: Event) -> None:
        tell = self._live.console.print
        if event.event == "resolved":
            self._rows = {
                str(layer.digest): _Row(layer.digest.short, layer.size_bytes)
                for layer in event.layers or ()
                if not layer.is_present
            }
            tell(opening(event), highlight=False, markup=False)
        elif event.event in ("note", "waiting"):
            tell(plain(event.message or ""), highlight=False, markup=False)
        elif event.event == "done":
            tell(summary(event, self._merged), highlight=False, markup=False)
        elif (row := self._rows.get(str(event.layer))) is not None:
            _STEPS[event.event](row, event)
            self._merged += event.event == "merged"


def refreshed(
    text: Callable[[int], str], console: Console | None = None, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Shows a text in place, afresh every second, until Ctrl-C; what it showed last stays.

    Args:
        text: given how many lines the screen has.
        sleep: injected by tests.
    """
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            height = live.console.height - 1  # the cursor stands below
            live.update(Text(text(height), no_wrap=True, overflow="crop"), refresh=True)
            sleep(_REFRESH_SECONDS)


def _fetched(row: _Row, event: Event) -> None:
    row.fetched_bytes += event.bytes or 0


def _decoded(row: _Row, event: Event) -> None:
    row.decoded_bytes += event.bytes or 0


def _extracted(row: _Row, event: Event) -> None:
    row.extracted_bytes += event.bytes or 0
    row.is_extracted |= bool(event.is_complete)


def _merged(row: _Row, event: Event) -> None:
    row.is_extracted = row.is_merged = True


_STEPS: dict[str, Callable[[_Row, Event], None]] = {
    "fetched": _fetched,
    "decoded": _decoded,
    "extracted": _extracted,
    "merged": _merged,
}


def _bar(done_bytes: int, total_bytes: int, is_over: bool, width: int) -> ProgressBar:
    """An empty layer's bar is full at its end, too."""
    total = max(total_bytes, 1)
    return ProgressBar(total=total, completed=total if is_over else min(done_bytes, total), width=width)
