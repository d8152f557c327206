"""What a node takes and gives: its torrents and their bytes, its limits, quiet mode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import Json, Socket, app, explained
from imagedist.cli.site_access import TokenFile
from imagedist.errors import InputError

if TYPE_CHECKING:
    from imagedist.agent.client import AgentClient
    from imagedist.agent.protocol import Limits


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
        return swarm_text(told.transfers, told.received_bytes, room_lines, told.given_bytes, is_quiet=told.is_quiet)

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
        str | None, typer.Option("--upload", metavar="RATE", help="To peers at most: 200MiB/s, none, or auto.")
    ] = None,
    download: Annotated[
        str | None,
        typer.Option("--download", metavar="RATE", help="From peers and the site's proxy together: 1GB/s, or none."),
    ] = None,
    connections: Annotated[
        int | None, typer.Option("--connections", metavar="COUNT", help="To peers at most, of all torrents together.")
    ] = None,
    quiet: Annotated[
        bool | None,
        typer.Option(
            "--quiet/--no-quiet", help="Give peers a trickle by few connections; what comes, comes as before."
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to what the configuration says.")] = False,
    seeder: Annotated[
        list[str] | None,
        typer.Option(help="Not this node's limits but the site's, at this seeder: --egress, --upload, --reset."),
    ] = None,
    egress: Annotated[
        str | None,
        typer.Option("--egress", metavar="RATE", help="A site's proxy and seeder together: 1GB/s, none."),
    ] = None,
    token_file: TokenFile = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Show or change what this node may take and give. A change holds until its agent ends.

    Transfers under way heed it at once. To change the limits for good, write them into [limits] of agent.toml. With
    --seeder or --egress: what the site's host may send.
    """
    if seeder or egress is not None:
        from imagedist.cli.site_limit import site_limits, site_limits_text

        if download is not None or connections is not None or quiet is not None:
            raise InputError("a site has --egress and --upload: leave the other limits out")
        site = site_limits(egress, upload, reset, seeder, token_file, socket)
        print(site.model_dump_json() if as_json else site_limits_text(site))
        return
    from pydantic import TypeAdapter

    from imagedist.agent.protocol import Limits, LimitsOrder
    from imagedist.config.agent import MIN_CONNECTIONS
    from imagedist.config.values import parse_rate, parse_upload

    said = (upload, download, connections, quiet)
    is_change = any(each is not None for each in said)
    if reset and is_change:
        raise InputError("--reset sets everything back: leave the other limits out")
    # Told here, whether an agent runs or not.
    if upload is not None:
        parse_upload(upload)
    if download is not None:
        parse_rate(download)
    if connections is not None and connections < MIN_CONNECTIONS:
        raise InputError(f"bad --connections {connections}: expected {MIN_CONNECTIONS} or more")
    agent = _agent(socket)
    order = LimitsOrder(upload=upload, download=download, connections=connections, quiet=quiet, reset=reset)
    told = agent.change_limits(order) if is_change or reset else agent.limits()
    print(TypeAdapter(Limits).dump_json(told).decode() if as_json else _limits_text(told))


def _limits_text(limits: Limits) -> str:
    """A node's limits, one per line, and whether it is in quiet mode."""
    from imagedist.render import decimal, table

    quiet = limits.quiet

    def rate(bytes_per_second: int | None) -> str:
        return "none" if bytes_per_second is None else f"{decimal(bytes_per_second)}/s"

    def by(source: str, then: str) -> str:
        told = {"command": f"a command, until the agent ends; then {then}", "file": "agent.toml"}
        return told.get(source, source)

    def row(name: str, limit: str, now: str, source: str, then: str, quiet_limit: str | None = None) -> tuple[str, ...]:
        if quiet is not None and quiet.is_quiet and quiet_limit is not None:
            return name, quiet_limit, now, f"quiet mode; else {limit}"
        return name, limit, now, by(source, then)

    rows = [
        row(
            name,
            rate(limit.bytes_per_second),
            rate(limit.now_bytes_per_second),
            limit.source,
            rate(limit.file_bytes_per_second),
            rate(quiet.upload_bytes_per_second) if quiet is not None and name == "upload" else None,
        )
        for name, limit in (("upload", limits.upload), ("download", limits.download))
    ]
    if (count := limits.connections) is not None:
        quiet_count = str(quiet.connections) if quiet is not None else None
        then = str(count.file_at_most)
        rows.append(row("connections", str(count.at_most), str(count.now), count.source, then, quiet_count))
    if quiet is not None:
        why = {"command": "a command, until the agent ends", "file": "agent.toml", "pressure": "this machine's load"}
        rows.append(("quiet", "on" if quiet.is_quiet else "off", "", why.get(quiet.source, quiet.source)))
    return table(("", "LIMIT", "NOW", "SET BY"), rows, numbers=("LIMIT", "NOW"))


def _agent(socket: Path | None) -> AgentClient:
    """Raises InputError: no agent runs on this node."""
    from imagedist.agent.client import AgentClient, find_socket

    found = find_socket(socket)
    if found is None:
        raise InputError("no agent runs on this node: start `imagedist agent --config agent.toml`")
    return AgentClient(found)
