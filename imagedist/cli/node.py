"""The commands of a node: its agent, its snapshotter, what is wrong with it, and the demo."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.errors import InputError
from imagedist.garbage import importing

if TYPE_CHECKING:
    from imagedist.config import AgentConfig


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
        from imagedist.log import log_to_stderr

    log_to_stderr(logging.DEBUG if verbose else logging.INFO)
    asyncio.run(run(load(config, AgentConfig)))


@app.command()
@explained
def snapshotter(
    config: Annotated[Path, typer.Option("--config", help="agent.toml, with a table [snapshotter]")],
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens, not only what went wrong.")] = False,
) -> None:
    """Serve containerd the layers that this node has, and those its agent gets: a proxy snapshotter."""
    from imagedist.log import log_to_stderr

    try:
        from imagedist.snapshotter.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("grpc", "google", "google.protobuf"):
            raise
        raise InputError("the snapshotter needs grpcio: pip install 'imagedist[containerd]'") from error

    def loaded() -> AgentConfig:
        from imagedist.config import AgentConfig, load

        return load(config, AgentConfig)

    log_to_stderr(logging.DEBUG if verbose else logging.INFO)
    run(loaded)


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
