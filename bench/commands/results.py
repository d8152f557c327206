"""What saved results say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.command import app, console, explained
from bench.report import show
from bench.result import load


@app.command()
@explained
def report(
    files: Annotated[list[Path], typer.Argument(help="Results written with --json.")],
) -> None:
    """Show saved results again."""
    for file in files:
        show(load(file), console())
