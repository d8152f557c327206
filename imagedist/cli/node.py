"""The commands of a node: its agent, its swarm, its runtimes, what is wrong with it, and the demo."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.errors import InputError


@app.command()
@explained
def agent(
    config: Annotated[Path, typer.Option("--config", help="agent.toml")],
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens, not only what went wrong.")] = False,
) -> None:
    """Run this node's agent: mirror, swarm session, cache, pulls."""
    import asyncio

    from imagedist.agent.app import run
    from imagedist.config import AgentConfig, load

    logging.getLogger().setLevel(logging.DEBUG if verbose else logging.INFO)
    asyncio.run(run(load(config, AgentConfig)))


@app.command()
@explained
def swarm(socket: Socket = None, as_json: Json = False) -> None:
    """Show this node's torrents: how far, how fast, from whom."""
    from pydantic import TypeAdapter

    from imagedist.agent.client import AgentClient, find_socket
    from imagedist.agent.protocol import Transfers
    from imagedist.render import swarm_table

    found = find_socket(socket)
    if found is None:
        raise InputError("no agent runs on this node: start `imagedist agent --config agent.toml`")
    told = AgentClient(found).transfers()
    print(TypeAdapter(Transfers).dump_json(told).decode() if as_json else swarm_table(told.transfers))


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
