"""How commands show themselves: bars on a terminal, plain lines in a pipe, JSON lines for machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from imagedist.progress import Event, Observer

_PLAIN_INTERVAL_SECONDS = 5.0


@contextmanager
def watching(as_json: bool) -> Iterator[Observer]:
    """An observer that suits standard output: a terminal, a pipe or a machine."""
    if as_json:
        yield lambda event: print(event.line(), flush=True)
    elif sys.stdout.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _Lines()


def summary(event: Event) -> str:
    """The last line of a pull."""
    seconds = event.seconds or 0.0
    sources = event.received_bytes or {}
    by = ", ".join(f"{decimal(count)} from {source}" for source, count in sorted(sources.items()) if count)
    text = f"{event.reference}  {(event.image or '')[:12]}  {decimal(event.bytes or 0)} in {seconds:.1f} s"
    return f"{text} ({by})" if by else text


class _Bars:
    """One bar per layer, then the summary."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[short]}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if event.event == "resolved":
            for layer in event.layers or ():
                task = self._progress.add_task(
                    "",
                    total=layer.size_bytes,
                    short=layer.digest.short,
                    state="here" if layer.is_present else "fetching",
                    completed=layer.size_bytes if layer.is_present else 0,
                )
                self._tasks[str(layer.digest)] = task
        elif event.event in ("note", "waiting"):
            self._progress.console.print(event.message or "")
        elif event.event == "done":
            self._progress.console.print(summary(event))
        elif str(event.layer) in self._tasks:
            task = self._tasks[str(event.layer)]
            if event.event == "fetched":
                self._progress.update(task, advance=event.bytes or 0)
            else:
                self._progress.update(task, state={"extracted": "unpacked", "merged": "merged"}[event.event])


class _Lines:
    """A line for what matters, and one every few seconds while bytes flow."""

    def __init__(self) -> None:
        self._total_bytes = 0
        self._fetched_bytes = 0
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.event == "resolved":
            layers = event.layers or ()
            missing = [layer for layer in layers if not layer.is_present]
            self._total_bytes = sum(layer.size_bytes for layer in missing)
            print(
                f"{event.reference}: {len(layers)} layers, {len(missing)} to fetch ({decimal(self._total_bytes)})",
                flush=True,
            )
        elif event.event == "fetched":
            self._fetched_bytes += event.bytes or 0
            if time.monotonic() - self._last >= _PLAIN_INTERVAL_SECONDS:
                self._last = time.monotonic()
                print(f"fetched {decimal(self._fetched_bytes)} of {decimal(self._total_bytes)}", flush=True)
        elif event.event in ("note", "waiting"):
            print(event.message, flush=True)
        elif event.event == "done":
            print(summary(event), flush=True)
