"""The commands of a node: its agent, its swarm, what is wrong with it, and the demo."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.errors import InputError

if TYPE_CHECKING:
    from imagedist.agent.client import AgentClient
    from imagedist.agent.protocol import Limit, Limits
    from imagedist.config import AgentConfig
from imagedist.garbage import importing


@app.command()
@explained
def agent(
    config: Annotated[Path, typer.Option("--config", help="agent.toml")],
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens, not only what went wrong.")] = False,
) -> None:
    """Run this node's agent: mirror, swarm session, cache, pulls."""
    with importing():
        import asyncio

        from imagedist.agent.app import run
        from imagedist.config import AgentConfig, load

    logging.getLogger().setLevel(logging.DEBUG if verbose else logging.INFO)
    asyncio.run(run(load(config, AgentConfig)))


@app.command()
@explained
def snapshotter(
    config: Annotated[Path, typer.Option("--config", help="agent.toml, with a table [snapshotter]")],
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens, not only what went wrong.")] = False,
) -> None:
    """Serve containerd the layers that this node has, and those its agent gets: a proxy snapshotter."""
    try:
        from imagedist.snapshotter.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("grpc", "google", "google.protobuf"):
            raise
        raise InputError("the snapshotter needs grpcio: pip install 'imagedist[containerd]'") from error

    def loaded() -> AgentConfig:
        from imagedist.config import AgentConfig, load

        return load(config, AgentConfig)

    logging.getLogger().setLevel(logging.DEBUG if verbose else logging.INFO)
    run(loaded)


@app.command()
@explained
def swarm(
    once: Annotated[bool, typer.Option("--once", help="One table and done, as in a pipe.")] = False,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Show this node's torrents: how far, how fast, from whom. On a terminal every second, until Ctrl-C."""
    from imagedist.render import swarm_text

    agent = _agent(socket)

    def text(room_lines: int | None = None) -> str:
        told = agent.transfers()
        return swarm_text(told.transfers, told.received_bytes, room_lines)

    if as_json:
        from pydantic import TypeAdapter

        from imagedist.agent.protocol import Transfers

        print(TypeAdapter(Transfers).dump_json(agent.transfers()).decode())
    elif once or not sys.stdout.isatty():
        print(text())
    else:
        from imagedist.bars import refreshed

        refreshed(text)


@app.command()
@explained
def limit(
    upload: Annotated[
        str | None, typer.Option("--upload", metavar="RATE", help="To peers at most: 200MiB/s, or none.")
    ] = None,
    download: Annotated[
        str | None,
        typer.Option("--download", metavar="RATE", help="From peers and the site's proxy together: 1GB/s, or none."),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to what agent.toml says.")] = False,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Show or change how many bytes per second this node may take and give. A change holds until its agent ends.

    Transfers under way heed it at once. To change the caps for good, write them into [limits] of agent.toml.
    """
    from pydantic import TypeAdapter

    from imagedist.agent.protocol import Limits, LimitsOrder
    from imagedist.config.values import parse_rate

    if reset and (upload is not None or download is not None):
        raise InputError("--reset sets both caps: leave --upload and --download out")
    for rate in (upload, download):
        if rate is not None:
            parse_rate(rate)  # told here, whether an agent runs or not
    agent = _agent(socket)
    is_change = reset or upload is not None or download is not None
    order = LimitsOrder(upload=upload, download=download, reset=reset)
    told = agent.change_limits(order) if is_change else agent.limits()
    print(TypeAdapter(Limits).dump_json(told).decode() if as_json else _limits_text(told))


def _limits_text(limits: Limits) -> str:
    from imagedist.render import decimal, table

    def rate(bytes_per_second: int | None) -> str:
        return "none" if bytes_per_second is None else f"{decimal(bytes_per_second)}/s"

    def source(limit: Limit) -> str:
        if limit.source == "command":
            return f"a command, until the agent ends; then {rate(limit.file_bytes_per_second)}"
        return "agent.toml" if limit.source == "file" else "default"

    rows = [
        (name, rate(limit.bytes_per_second), rate(limit.now_bytes_per_second), source(limit))
        for name, limit in (("upload", limits.upload), ("download", limits.download))
    ]
    return table(("", "LIMIT", "NOW", "SET BY"), rows, numbers=("LIMIT", "NOW"))


def _agent(socket: Path | None) -> AgentClient:
    """Raises InputError: no agent runs on this node."""
    from imagedist.agent.client import AgentClient, find_socket

    found = find_socket(socket)
    if found is None:
        raise InputError("no agent runs on this node: start `imagedist agent --config agent.toml`")
    return AgentClient(found)


@app.command()
@explained
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", help="Default: /etc/imagedist/agent.toml, if there.")
    ] = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Check this node as its runtimes meet it: the machine, its agent, the site. Says what to do about each finding."""
    from imagedist.doctor import examine
    from imagedist.doctor.text import text

    findings = interruptible(examine(config, socket))
    problems = sum(finding.severity == "bad" for finding in findings)
    if as_json:
        print(json.dumps({"format": 1, "problems": problems, "findings": [asdict(finding) for finding in findings]}))
    else:
        print(text(findings))
    if problems:
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
