"""``imagedist-bench``: figures from your own machine, peers side by side."""

from __future__ import annotations

from bench.commands import everything, network, node, results, simulation, site
from bench.commands.command import app

__all__ = ["app", "main"]

del everything, network, node, results, simulation, site  # imported for their commands


def main() -> None:
    """The console script."""
    app()
