"""``imagedist-bench``: figures from your own machine, peers side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.statistics import Result, ratio
from imagedist.config import parse_size
from imagedist.errors import ImagedistError

app = typer.Typer(
    help="Measure imagedist beside the runtimes of this machine.", no_args_is_help=True, add_completion=False
)

_QUICK_BYTES = 60_000_000
_QUICK_ROUNDS = 3


@app.callback()
def _options() -> None:
    """Measure imagedist beside the runtimes of this machine."""


@app.command()
def unpack(
    directory: Annotated[Path, typer.Option(help="On the file system to measure.")] = Path("/dev/shm/imagedist-bench"),
    size: Annotated[str, typer.Option(help="Compressed size of the image.")] = "150MB",
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Runs of each; the table shows medians.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller image, three rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Pull one image into an empty store: parallel, serial, and podman."""
    from bench.unpack import run

    try:
        size_bytes = _QUICK_BYTES if quick else parse_size(size)
        result = run(directory, size_bytes, _QUICK_ROUNDS if quick else rounds)
    except ImagedistError as error:
        print(f"imagedist-bench: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        show(result)


def show(result: Result) -> None:
    """The table of a result; a noisy run says so."""
    facts, host = result.image, result.machine
    compressed = int(facts["compressed_bytes"]) / 1e6
    print(f"{facts['name']}: {facts['layers']} layers, {compressed:.0f} MB compressed; {result.settings['directory']}")
    print(f"{host['cpus']} CPUs ({host['processor']}), Linux {host['kernel']}, Python {host['python']}")
    table = Table(box=None, pad_edge=False)
    for title in ("", "SECONDS", "CPU-SECONDS", "TIMES FASTER", "SPREAD"):
        table.add_column(title, justify="left" if not title else "right")
    for row in result.rows:
        if row.median is None:
            table.add_row(row.name, f"not run: {row.not_run}")
            continue
        cpu = sorted(row.cpu_seconds)[len(row.cpu_seconds) // 2]
        table.add_row(
            row.name, f"{row.median:.2f}", f"{cpu:.2f}", f"{ratio(result.rows, row):.1f}×", f"{row.spread:.0%}"
        )
    Console().print(table)
    if result.is_noisy:
        print("noisy: runs of one row differ by more than a third; close other programs and measure again")


def main() -> None:
    """The console script."""
    app()
