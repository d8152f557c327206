"""The commands of an image store: what is in it, where it is, and out with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imagedist.cli.command import Json, Root, app, entered, explained, store_root, stores_upon
from imagedist.errors import InputError
from imagedist.plain import plain


@app.command()
@explained
def images(root: Root = None, as_json: Json = False) -> None:
    """List the images of a store."""
    from imagedist.overlay.store import OverlayStore
    from imagedist.render import decimal, table

    stored = OverlayStore(store_root(root)).images()
    if as_json:
        print(json.dumps([asdict(image) for image in stored]))
        return
    rows = [
        (name, image.id[:12], str(len(image.layer_ids)), decimal(image.size_bytes), image.created[:19])
        for image in stored
        for name in image.names or ("<none>",)
    ]
    print(table(("NAME", "ID", "LAYERS", "SIZE", "CREATED"), rows))


@app.command()
@explained
def inspect(
    image: Annotated[str, typer.Argument(help="Name or id")],
    root: Root = None,
    as_json: Annotated[bool, typer.Option("--json", help="All on one line, for machines.")] = False,
) -> None:
    """Show everything the store knows about an image, as JSON."""
    from imagedist.overlay.store import OverlayStore

    store = OverlayStore(store_root(root))
    found = store.find(image)
    documents = {"manifest": json.loads(store.manifest_bytes(found)), "config": json.loads(store.config_bytes(found))}
    layers = [str(path) for path in store.diffs(found)]
    print(json.dumps({**asdict(found), "layer_directories": layers, **documents}, indent=None if as_json else 2))


@app.command()
@explained
def mount(
    image: Annotated[str, typer.Argument(help="Name or id")],
    command: Annotated[
        list[str] | None,
        typer.Argument(help="After --: run this in the root filesystem's directory, and unmount it then."),
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Mount an image's root filesystem read-only and print where; or run a command in it.

    Needs root. An ordinary user's mounts live in a namespace: without root give a COMMAND (after --), or run it all
    inside `podman unshare`.
    """
    import os

    from imagedist.overlay.store import OverlayStore

    if os.geteuid() != 0 and not command:
        raise InputError(
            f"a mount of an ordinary user ends with this command: run `imagedist mount {image} -- COMMAND`, "
            "or all of it with sudo or inside `podman unshare`"
        )
    store = OverlayStore(entered(root))
    found = store.find(image)
    if not command:
        path = store.mount(found)
        print(json.dumps({"image": found.id, "path": str(path)}) if as_json else path)
        return
    with store.mounted(found) as path:
        raise typer.Exit(_run(command, path))


def _run(command: list[str], directory: Path) -> int:
    import subprocess

    try:
        code = subprocess.run(command, cwd=directory).returncode
    except OSError as error:
        raise InputError(f"cannot run {command[0]}: {error.strerror}") from error
    return code if code >= 0 else 128 - code  # killed by a signal: as every shell says it


@app.command()
@explained
def umount(image: Annotated[str, typer.Argument(help="Name or id")], root: Root = None, as_json: Json = False) -> None:
    """Undo `mount`."""
    from imagedist.overlay.store import OverlayStore

    store = OverlayStore(store_root(root))
    found = store.find(image)
    store.umount(found)
    if as_json:
        print(json.dumps({"image": found.id}))


UsedBy = Annotated[list[Path] | None, typer.Option(help="Runtimes' stores whose containers may use it (repeatable).")]


@app.command()
@explained
def rm(
    image: Annotated[str, typer.Argument(help="Name or id")],
    root: Root = None,
    used_by: UsedBy = None,
    as_json: Json = False,
) -> None:
    """Remove an image and the layers nobody else uses; never what is mounted or used.

    By one of its names takes that name away, and with the last name the image.
    """
    from imagedist.overlay.store import OverlayStore

    path = entered(root)
    store = OverlayStore(path, used_by=stores_upon(path, used_by))
    found = store.find(image)
    is_gone = store.remove(image) is not None
    if as_json:
        print(json.dumps({"image": found.id, "is_gone": is_gone}))


@app.command()
@explained
def gc(
    root: Root = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    quota: Annotated[
        str | None, typer.Option(help="Also evict images that nobody uses, oldest first, down to this size.")
    ] = None,
    ramdisk: Annotated[Path | None, typer.Option(help="The ramdisk's directory. Default: in /dev/shm.")] = None,
    used_by: UsedBy = None,
    as_json: Json = False,
) -> None:
    """Remove what killed processes left and layers that no image needs; never what is mounted, used or being built."""
    from imagedist.config import parse_size
    from imagedist.engine import default_ramdisk
    from imagedist.overlay.store import OverlayStore
    from imagedist.render import decimal

    quota_bytes = parse_size(quota) if quota else None
    path = entered(root)
    store = OverlayStore(path, used_by=stores_upon(path, used_by))
    collected = store.gc(quota_bytes=quota_bytes, scratch=[ramdisk or default_ramdisk()], dry_run=dry_run)
    total_bytes = sum(one.size_bytes for one in collected)
    if as_json:
        rows = [asdict(one) for one in collected]
        print(json.dumps({"dry_run": dry_run, "size_bytes": total_bytes, "collected": rows}))
        return
    verb = "would remove" if dry_run else "removed"
    for one in collected:
        print(plain(f"{verb} {one.kind} {one.name} ({decimal(one.size_bytes)})"))
    print(f"{decimal(total_bytes)} {'could be freed' if dry_run else 'freed'}")
