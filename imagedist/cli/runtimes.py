"""`imagedist runtimes`: what each runtime gets, what it lacks, writing it, taking it back, and the proof."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.errors import InputError
from imagedist.plain import plain

if TYPE_CHECKING:
    from imagedist.runtimes import RuntimeReport, Settings
    from imagedist.runtimes.applying import Written

_CONFIG = "/etc/imagedist/agent.toml"


@app.command()
@explained
def runtimes(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="docker, containerd, nerdctl, podman, crio, k3s, rke2. Default: all here."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the configuration; backups are kept beside.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Give back what was there before --apply.")] = False,
    force: Annotated[bool, typer.Option("--force", help="With --undo: files changed since are put beside.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Restart what was written for. Never done unasked.")
    ] = False,
    prove: Annotated[bool, typer.Option("--prove", help="Let each configured runtime pull and run a canary.")] = False,
    canary: Annotated[
        str | None, typer.Option(help="With --prove: an image the site serves. Default: a home-made one.")
    ] = None,
    registry: Annotated[
        list[str] | None, typer.Option(help="Besides docker.io, for runtimes that need an entry each; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help=f"The node's agent.toml. Default: {_CONFIG}, if there.")] = None,
    mirror: Annotated[str | None, typer.Option(help="The mirror's HOST:PORT. Default: as in agent.toml.")] = None,
    root: Annotated[Path, typer.Option(help="Another tree than this machine's /, such as a mounted image.")] = Path(
        "/"
    ),
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """For each runtime: P2P or not, parallel unpack or not, and how. Writes the configuration when told to."""
    if sum((apply, undo, prove)) > 1:
        raise InputError("--apply, --undo and --prove are three steps: give one at a time")
    if (restart and not (apply or undo)) or (force and not undo) or (canary and not prove):
        raise InputError("--restart goes with --apply or --undo, --force with --undo, --canary with --prove")
    if restart and root != Path("/"):
        raise InputError("--restart restarts this machine's runtimes: it does not go with --root")
    settings = _settings(root, config, mirror, registry or [], socket)
    chosen = names or []
    if apply:
        _apply(settings, chosen, restart, as_json)
    elif undo:
        _undo(settings, chosen, force, restart, as_json)
    elif prove:
        _prove(settings, chosen, canary, socket, as_json)
    else:
        _show(settings, chosen, as_json)


def _settings(
    root: Path, config: Path | None, mirror: str | None, registries: list[str], socket: Path | None
) -> Settings:
    from imagedist.runtimes import Settings

    usual = root / _CONFIG.lstrip("/")
    path = config or (usual if usual.exists() else None)
    given: dict[str, object] = {}
    if path is not None:
        from imagedist.config import AgentConfig, load

        loaded = load(path, AgentConfig)
        given = {"mirror": str(loaded.agent.listen), "store": loaded.storage.root}
        if loaded.snapshotter is not None:
            given["socket"] = loaded.snapshotter.socket
    if mirror is not None:
        from imagedist.config import parse_address

        try:
            given["mirror"] = str(parse_address(mirror))
        except ValueError as error:
            raise InputError(f"bad --mirror: {error}") from error
    if registries:
        given["upstreams"] = _prefixes(registries, socket)
    return Settings(root=root.absolute(), **given)  # type: ignore[arg-type]  # checked where they come from


def _prefixes(registries: list[str], socket: Path | None) -> dict[str, str]:
    """Where the site serves each registry: as it says itself, or under its own name if no agent can ask it."""
    from imagedist.agent.client import AgentClient, find_socket
    from imagedist.runtimes import Settings

    found = find_socket(socket)
    if found is not None:
        return {**Settings().upstreams, **{registry: AgentClient(found).prefix(registry) for registry in registries}}
    for registry in registries:
        if ":" in registry or "/" in registry:
            raise InputError(f"--registry {registry}: start the agent first, which asks the site for its path there")
    return {**Settings().upstreams, **{registry: registry for registry in registries}}


def _show(settings: Settings, names: list[str], as_json: bool) -> None:
    from imagedist.runtimes import survey

    reports = survey(settings, names)
    if as_json:
        print(json.dumps([asdict(report) for report in reports]))
        return
    if not reports:
        print("no docker, containerd, nerdctl, podman, CRI-O, k3s or RKE2 on this machine")
    for report in reports:
        _show_one(report)


def _show_one(report: RuntimeReport) -> None:
    print(f"{report.name} {plain(report.version)}{'' if report.is_configured else '  (not configured yet)'}")
    print(f"  P2P              {report.p2p}")
    print(f"  parallel unpack  {report.parallel_unpack}")
    print(f"  how              {report.how}")
    for note in report.notes:
        print(f"  note             {note}")
    if report.problem:
        print(f"  problem          {plain(report.problem)}")
    for path, diff in report.changes.items():
        print(f"  to write         {path}")
        for line in diff.splitlines()[2:]:
            print(f"    {plain(line)}")
    if report.changes:
        print(f"  then             imagedist runtimes --apply {report.key}")


def _apply(settings: Settings, names: list[str], restart: bool, as_json: bool) -> None:
    from imagedist.runtimes import restarting
    from imagedist.runtimes.applying import apply
    from imagedist.runtimes.plan import plan
    from imagedist.runtimes.survey import found, need_one_containerd

    founds = found(settings, names)
    need_one_containerd(settings, founds)
    wanted = plan(founds, names)
    keys = {key for change in wanted.files for key in change.keys}
    written = apply(settings, wanted)
    _after(written, restarting.commands(founds, keys), restart, as_json, "written")


def _undo(settings: Settings, names: list[str], force: bool, restart: bool, as_json: bool) -> None:
    from imagedist.runtimes import restarting
    from imagedist.runtimes.survey import found
    from imagedist.runtimes.undoing import undo

    restored = undo(settings, names, is_forced=force)
    keys = {key for entry in restored for key in entry.keys}
    _after(restored, restarting.commands(found(settings), keys), restart, as_json, "restored")


def _after(written: list[Written], commands: list[tuple[str, ...]], restart: bool, as_json: bool, word: str) -> None:
    """Says what was done, then restarts, or says what to restart."""
    from imagedist.runtimes import restarting

    lines = [" ".join(command) for command in commands]
    if as_json:
        files = [{"path": one.path, "kept": one.kept} for one in written]
        print(json.dumps({word: files, "restart": lines, "restarting": restart}), flush=True)
    else:
        for one in written:
            print(f"{word} {one.path}{f'; kept {one.kept}' if one.kept else ''}")
        if not written:
            print("nothing to do: it is as it should be")
        if lines and not restart:
            print(f"to make it hold: {' && '.join(lines)}")
    if restart:
        for command in commands:
            if not as_json:
                print(" ".join(command), flush=True)
            restarting.run(command)


def _prove(settings: Settings, names: list[str], canary: str | None, socket: Path | None, as_json: bool) -> None:
    from imagedist.canary import prove

    verdicts = interruptible(prove(settings, names, canary, socket))
    if as_json:
        print(json.dumps([asdict(verdict) for verdict in verdicts]))
    else:
        print(f"{'runtime':<12}{'mirror':<10}{'unpacked by us':<16}{'ran':<8}")
        for verdict in verdicts:
            row = f"{verdict.key:<12}{verdict.mirror:<10}{verdict.unpacked:<16}{verdict.ran:<8}{verdict.detail}"
            print(plain(row.rstrip()))
    if any(not verdict.is_good for verdict in verdicts):
        raise typer.Exit(1)
