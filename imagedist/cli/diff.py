"""``imagedist diff``: two root file systems compared, by directory or by image."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import Json, Root, app, entered, explained
from imagedist.errors import ImagedistError, InputError

if TYPE_CHECKING:
    from imagedist.overlay import tree


@app.command()
@explained
def diff(
    left: Annotated[str, typer.Argument(help="A directory; or an image of the store, by name or id")],
    right: Annotated[str, typer.Argument(help="What to compare it with, likewise")],
    ignore: Annotated[
        str, typer.Option(help="Leave out aspects: mode,owner,mtime,xattrs,content,root-mode,directory-mtime,…")
    ] = "",
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Compare two root filesystems in everything an image says of a file. Exit code 0: equal, 1: different.

    One line, or with --json one JSON object a line, per difference, sorted by path. 2 means trouble, as of diff(1).
    """
    from imagedist.difference import compare, parse_ignored

    is_different = False
    try:
        for difference in compare(_opened(left, root), _opened(right, root), parse_ignored(ignore)):
            is_different = True
            print(json.dumps(asdict(difference)) if as_json else difference.line())
    except ImagedistError as error:
        raise InputError(str(error)) from error
    if is_different:
        raise typer.Exit(1)


def _opened(name: str, root: Path | None) -> tree.Root:
    """A directory of that name comes before an image."""
    from imagedist.overlay.store import OverlayStore
    from imagedist.overlay.tree import Directory
    from imagedist.overlay.view import View

    if Path(name).is_dir():
        return Directory(Path(name))
    if name.startswith(("/", "./", "../")):
        raise InputError(f"cannot compare {name}: there is no such directory")
    store = OverlayStore(entered(root))
    return View(store.diffs(store.find(name)))
