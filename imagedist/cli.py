"""The command line (design.md §4.7). Each command: parse, call one room, show the result."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from imagedist import __version__
from imagedist.engine import default_root
from imagedist.errors import ImagedistError, InputError
from imagedist.oci.manifest import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Event

P = ParamSpec("P")
R = TypeVar("R")

_PIPE_WIDTH = 1000
INTERRUPTED = 130
"""128 + SIGINT, as every shell expects."""

app = typer.Typer(
    name="imagedist",
    help="Gives container hosts an image: over a site's swarm, unpacked in parallel.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is plain text: brackets mean what they say
)

Root = Annotated[Path | None, typer.Option("--root", help="The image store. Default: the agent's or the user's own.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines instead of text.")]
Socket = Annotated[Path | None, typer.Option("--socket", help="The agent's socket.", envvar="IMAGEDIST_SOCKET")]


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Ends a command with one readable line and the right exit code: 1 failed, 2 usage, 130 interrupted."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ImagedistError as error:
            if kwargs.get("as_json"):
                print(Event(event="error", message=str(error), exit_code=error.exit_code).line())
            print(f"imagedist: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("imagedist: interrupted; nothing half-done was kept", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has gone (`| head`): no traceback at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    return run


def interruptible(work: Coroutine[Any, Any, R]) -> R:
    """Runs a coroutine; SIGTERM cancels it as Ctrl-C does, so that it cleans up."""

    async def main() -> R:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    return asyncio.run(main())


def _version(wanted: bool) -> None:
    if wanted:
        print(f"imagedist {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


@app.command()
@explained
def pull(
    reference: Annotated[str, typer.Argument(help="registry/repository:tag or @digest")],
    root: Root = None,
    via: Annotated[str | None, typer.Option(help="A proxy's or mirror's URL to pull through.")] = None,
    into: Annotated[
        Literal["docker", "podman", "containerd"] | None,
        typer.Option(help="Make this runtime pull it through the agent, under its real name."),
    ] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="The registry speaks HTTP, not HTTPS.")] = False,
    platform: Annotated[str | None, typer.Option(help="OS/ARCH[/VARIANT]. Default: this machine's.")] = None,
    strategy: Annotated[
        Literal["parallel", "serial"], typer.Option(help="serial: one layer after the other, for comparison.")
    ] = "parallel",
    ramdisk: Annotated[Path | None, typer.Option(help="Where staged tars go. Default: /dev/shm.")] = None,
    ramdisk_budget: Annotated[str, typer.Option(help="How much of it at most.")] = "4GiB",
    workers: Annotated[int | None, typer.Option(help="Worker processes. Default: one per CPU.", min=1)] = None,
    no_agent: Annotated[bool, typer.Option("--no-agent", help="Do the work here even if an agent runs.")] = False,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Pull an image into overlay storage, all layers unpacked at once.

    Uses this node's agent when its socket is there; works without one, and without any site, when it is not.
    """
    from imagedist import commands
    from imagedist.config import parse_url

    parsed = Reference.parse(reference)
    if via is not None:
        via = parse_url(via, "--via")
    order = commands.PullOrder(
        reference=parsed,
        platform=Platform.parse(platform) if platform else Platform.of_this_machine(),
        root=root,
        via=via,
        plain_http=plain_http,
        strategy=strategy,
        ramdisk=ramdisk,
        ramdisk_budget=ramdisk_budget,
        workers=workers,
        socket=None if no_agent else commands.find_socket(socket),
    )
    if into:
        interruptible(commands.pull_into(order, into, as_json))
    else:
        interruptible(commands.pull(order, as_json))


@app.command()
@explained
def images(root: Root = None, as_json: Json = False) -> None:
    """List the images of a store."""
    from imagedist.overlay.store import OverlayStore

    stored = OverlayStore(root or default_root()).images()
    if as_json:
        print(json.dumps([asdict(image) for image in stored]))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "ID", "LAYERS", "SIZE", "CREATED"):
        table.add_column(title, overflow="fold")
    for image in stored:
        for name in image.names or ("<none>",):
            table.add_row(name, image.id[:12], str(len(image.layer_ids)), decimal(image.size_bytes), image.created[:19])
    _show(table)


def _show(table: Table) -> None:
    """A pipe has no width to fold at."""
    (Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)).print(table)


@app.command()
@explained
def inspect(image: Annotated[str, typer.Argument(help="Name or id")], root: Root = None) -> None:
    """Show everything the store knows about an image, as JSON."""
    from imagedist.overlay.store import OverlayStore

    store = OverlayStore(root or default_root())
    found = store.find(image)
    documents = {"manifest": json.loads(store.manifest_bytes(found)), "config": json.loads(store.config_bytes(found))}
    layers = [str(path) for path in store.diffs(found)]
    print(json.dumps({**asdict(found), "layer_directories": layers, **documents}, indent=2))


@app.command()
@explained
def mount(image: Annotated[str, typer.Argument(help="Name or id")], root: Root = None) -> None:
    """Mount an image's root filesystem read-only and print where. Needs root."""
    from imagedist.overlay.store import OverlayStore

    store = OverlayStore(root or default_root())
    print(store.mount(store.find(image)))


@app.command()
@explained
def umount(image: Annotated[str, typer.Argument(help="Name or id")], root: Root = None) -> None:
    """Undo `mount`."""
    from imagedist.overlay.store import OverlayStore

    store = OverlayStore(root or default_root())
    store.umount(store.find(image))


@app.command()
@explained
def rm(
    image: Annotated[str, typer.Argument(help="Name or id")],
    root: Root = None,
    used_by: Annotated[
        list[Path] | None, typer.Option(help="Runtimes' stores whose containers may use it (repeatable).")
    ] = None,
) -> None:
    """Remove an image and the layers nobody else uses; never what is mounted or used."""
    from imagedist.config import StorageTable
    from imagedist.overlay.store import OverlayStore

    users = used_by or list(StorageTable().used_by)
    OverlayStore(root or default_root(), used_by=users).remove(image)


@app.command()
@explained
def agent(
    config: Annotated[Path, typer.Option("--config", help="agent.toml")],
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens, not only what went wrong.")] = False,
) -> None:
    """Run this node's agent: mirror, swarm session, cache, pulls."""
    from imagedist.agent.app import run
    from imagedist.config import AgentConfig, load

    logging.getLogger().setLevel(logging.DEBUG if verbose else logging.INFO)
    asyncio.run(run(load(config, AgentConfig)))


@app.command()
@explained
def swarm(socket: Socket = None, as_json: Json = False) -> None:
    """Show this node's torrents: how far, how fast, from whom."""
    from imagedist import commands

    found = commands.find_socket(socket)
    if found is None:
        raise InputError("no agent runs on this node: start `imagedist agent --config agent.toml`")
    told = interruptible(commands.transfers(found))
    if as_json:
        print(told.model_dump_json())
        return
    table = Table(box=None, pad_edge=False)
    for title in (
        "BLOB",
        "SIZE",
        "HERE",
        "PEERS",
        "DOWN/s",
        "UP/s",
        "FROM PEERS",
        "FROM SEEDER",
        "BY WEB SEED",
        "SENT",
    ):
        table.add_column(title, justify="left" if title == "BLOB" else "right")
    for row in told.transfers:
        here = "all" if row.is_complete else f"{row.present_bytes / max(row.size_bytes, 1):.0%}"
        received = (decimal(row.received_bytes.get(source, 0)) for source in ("peer", "seeder", "webseed"))
        rates = (decimal(row.download_rate), decimal(row.upload_rate))
        table.add_row(
            row.digest.short,
            decimal(row.size_bytes),
            here,
            str(row.peers),
            *rates,
            *received,
            decimal(row.uploaded_bytes),
        )
    _show(table)


@app.command()
@explained
def runtimes(
    mirror: Annotated[str, typer.Option(help="The agent's mirror address.")] = "127.0.0.1:5050", as_json: Json = False
) -> None:
    """For each runtime of this machine: does it get P2P, does it get the parallel unpack, and how."""
    from imagedist.runtimes import survey

    reports = survey(mirror)
    if as_json:
        print(json.dumps([asdict(report) for report in reports]))
        return
    if not reports:
        print("no docker, containerd, podman or CRI-O on this machine")
    for report in reports:
        print(f"{report.name} {report.version}{'' if report.is_configured else '  (not configured yet)'}")
        print(f"  P2P              {report.p2p}")
        print(f"  parallel unpack  {report.parallel_unpack}")
        print(f"  how              {report.how}")


@app.command()
@explained
def doctor(
    config: Annotated[Path | None, typer.Option("--config", help="agent.toml to check as well")] = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Check this machine, its agent, and the site behind it; say what to do about each finding."""
    from imagedist.doctor import examine

    findings = interruptible(examine(config, socket))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.verdict:<5} {finding.what}{': ' if finding.detail else ''}{finding.detail}")
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
@explained
def demo(
    image: Annotated[str | None, typer.Option(help="Distribute this real image instead of a home-made one.")] = None,
    directory: Annotated[Path, typer.Option(help="Where everything happens; removed stores, kept image.")] = Path(
        ".demo"
    ),
    size: Annotated[str, typer.Option(help="Compressed size of the home-made image.")] = "150MB",
    rate: Annotated[str, typer.Option(help="What each link carries: every node's and the registry's.")] = "50MB/s",
    plain_http: Annotated[bool, typer.Option("--plain-http", help="The image's registry speaks HTTP.")] = False,
    as_json: Json = False,
) -> None:
    """Watch the main job on this machine: registry, site, four nodes, no root and no network needed."""
    from imagedist.demo.run import run_demo

    interruptible(run_demo(image, directory, size, rate, plain_http=plain_http, as_json=as_json))


def main() -> None:
    """The console script."""
    try:
        app(standalone_mode=True)
    except InputError as error:  # raised while options were read
        print(f"imagedist: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
