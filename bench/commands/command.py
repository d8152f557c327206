"""What all sub-commands have: an end that explains itself, a result that is in its file after every row."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import ParamSpec
from urllib.parse import urlsplit

import typer
from rich.console import Console

from bench.commands.progress import Progress
from bench.directories import remove_abandoned
from bench.janitor import janitor
from bench.journal import Journal
from bench.preflight import check_file
from bench.report import show
from bench.result import Keep, Result
from imagedist.config import parse_size
from imagedist.errors import ImagedistError, InputError

P = ParamSpec("P")

app = typer.Typer(
    name="imagedist-bench",
    help="Measure imagedist beside the runtimes of this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_PIPE_WIDTH = 200
_KILLED = 130
_LEAST_BYTES = 4_000_000
"""Four layers that are worth a torrent."""


def explained(command: Callable[P, None]) -> Callable[P, None]:
    """Ends a command with one readable line and the right exit code: 1 failed, 2 usage, 130 interrupted."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        try:
            command(*args, **kwargs)
        except ImagedistError as error:
            print(f"imagedist-bench: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            raise typer.Exit(_KILLED) from None

    return run


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM cleans up as Ctrl-C does: daemons, mounts and stores go."""
    raise KeyboardInterrupt


def measured(run: Callable[[Keep], Result], file: Path | None, store: Path) -> None:
    """Runs a benchmark, keeps what it finds in ``file`` and shows it; stopped, what it had found.

    Raises:
        ImagedistError: it failed. KeyboardInterrupt: it was stopped.
    """
    check_file(file)
    is_printed = file is not None and str(file) == "-"
    journal = Journal(shlex.join(["imagedist-bench", *sys.argv[1:]]), None if is_printed else file)
    try:
        try:
            remove_abandoned()
        except ImagedistError as error:  # in use by what ends at this moment, or by somebody who looks at it
            say(f"of a benchmark that was killed something is left: {error}")
        with janitor(store), say.shown():
            result = journal.finish(run(journal.keep))
    except (KeyboardInterrupt, ImagedistError) as error:
        why = str(error) or "interrupted"
        journal.stop(why)
        if journal.last is not None:
            _give(journal.last, is_printed)
        kept = f"what was measured before is in {file}" if file and journal.last else "nothing was kept"
        if isinstance(error, KeyboardInterrupt):
            print(f"imagedist-bench: {why}; {kept}", file=sys.stderr)
        raise
    _give(result, is_printed)


def _give(result: Result, is_printed: bool) -> None:
    if is_printed:
        print(result.model_dump_json(indent=2))
    else:
        show(result, console())


say = Progress()
"""Told what is going on."""


def console() -> Console:
    """A pipe has no width to fold at. What others said, with brackets in it, is no markup."""
    return Console(markup=False) if sys.stdout.isatty() else Console(width=_PIPE_WIDTH, markup=False)


def endpoints(kraken: str | None, dragonfly: str | None, spegel: str | None) -> dict[str, str]:
    """Those that were given. Raises InputError: not a URL."""
    given = {"kraken": kraken, "dragonfly": dragonfly, "spegel": spegel}
    for name, url in given.items():
        parts = urlsplit(url or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--{name} {url!r}: expected a URL such as http://127.0.0.1:4001")
    return {name: url.rstrip("/") for name, url in given.items() if url}


def names(text: str) -> list[str]:
    """Comma-separated."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def size_of(text: str, option: str = "--size") -> int:
    """Of something that the swarm carries. Raises InputError: no size, or a smaller one than that."""
    if (size_bytes := parse_size(text)) < _LEAST_BYTES:
        raise InputError(f"{option} {text} is too small: expected 4MB at least")
    return size_bytes


def counts(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated numbers above zero. Raises InputError: others."""
    found = names(text)
    if not found or not all(name.isdecimal() and int(name) for name in found):
        raise InputError(f"{option} is {text!r}: expected numbers such as 1,2,4,8")
    return tuple(dict.fromkeys(map(int, found)))
