"""``imagedist pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from imagedist.cli.command import Json, Root, Socket, app, explained, interruptible
from imagedist.cli.tls_options import CaFile, ClientCertificate, ClientKey, tls_files
from imagedist.errors import InputError
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference


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
    plain_http: Annotated[
        bool,
        typer.Option("--plain-http", help="The registry speaks HTTP. It is asked straight, not by the agent's site."),
    ] = False,
    ca_file: CaFile = None,
    client_certificate: ClientCertificate = None,
    client_key: ClientKey = None,
    platform: Annotated[str | None, typer.Option(help="OS/ARCH[/VARIANT]. Default: this machine's.")] = None,
    strategy: Annotated[
        Literal["parallel", "staged", "serial"],
        typer.Option(
            help="parallel: everything at once. For comparison: staged, all layers decoded in parallel, then unpacked "
            "one by one; serial, one layer after the other."
        ),
    ] = "parallel",
    scratch: Annotated[
        Literal["ramdisk", "disk"],
        typer.Option(help="Where staged tars go; disk, the store's own, is for comparison."),
    ] = "ramdisk",
    ramdisk: Annotated[Path | None, typer.Option(help="The ramdisk's directory. Default: in /dev/shm.")] = None,
    ramdisk_budget: Annotated[str | None, typer.Option(help="How much of it at most. Default: 4GiB.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes. Default: one per CPU.", min=1)] = None,
    cpus: Annotated[str | None, typer.Option(help="CPUs for the workers, such as 0-3,8. Default: all.")] = None,
    nice: Annotated[int | None, typer.Option(help="Niceness of the workers. Default: 0.", min=-20, max=19)] = None,
    io_class: Annotated[
        Literal["none", "best-effort", "idle"] | None,
        typer.Option(help="I/O class of the workers: idle, only when nobody else wants the disk."),
    ] = None,
    no_agent: Annotated[bool, typer.Option("--no-agent", help="Do the work here even if an agent runs.")] = False,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Pull an image into overlay storage, all layers unpacked at once.

    Uses this node's agent when its socket is there; works without one, and without any site, when it is not.
    Who says how to unpack (strategy, scratch, ramdisk, workers, placement) has it done here, not by the agent.
    """
    from imagedist import commands, standalone

    if scratch == "disk":
        if ramdisk or ramdisk_budget:
            raise InputError("--scratch disk uses no ramdisk: leave out --ramdisk and --ramdisk-budget")
        ramdisk_budget = "0"
    tls = tls_files(ca_file, client_certificate, client_key)
    options = {"ramdisk": ramdisk, "ramdisk_budget": ramdisk_budget, "workers": workers}
    options |= {"cpus": cpus, "nice": nice, "io_class": io_class}
    given = {name: value for name, value in options.items() if value is not None}
    order = commands.PullOrder(
        reference=Reference.parse(reference),
        platform=Platform.parse(platform) if platform else None,
        root=root.absolute() if root else None,
        via=standalone.mirror_url(via) if via is not None else None,
        plain_http=plain_http,
        tls=tls,
        strategy=strategy,
        unpack=standalone.unpack_plan(given) if given else None,
        socket=None if no_agent else commands.find_socket(socket),
    )
    if into:
        interruptible(commands.pull_into(order, into, as_json))
    else:
        commands.pull(order, as_json, interruptible)
