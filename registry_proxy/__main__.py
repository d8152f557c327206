"""``python -m registry_proxy``: the console script ``imagedist-proxy``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from imagedist.config import ProxyConfig, load
from imagedist.errors import ImagedistError
from imagedist.log import log_to_stderr
from imagedist.share import shared


def main() -> None:
    # Help and a fault's traceback as plain text: they end in a journal.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(_serve)
    app(prog_name="imagedist-proxy")


def _serve(config: Annotated[Path, typer.Option(help="The proxy's TOML file.")]) -> None:
    """Pulls blobs from upstream registries once, and serves them to the nodes of a site."""
    log_to_stderr()
    try:
        settings = load(config, ProxyConfig)
        with shared(settings.proxy.workers) as share:  # before anything that counts is imported
            from registry_proxy.app import run

            run(settings, share)
    except ImagedistError as error:
        print(f"imagedist-proxy: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
