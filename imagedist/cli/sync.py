"""``imagedist sync``: tags between sites: what would move, move it now, how far it is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import app
from imagedist.cli.seeder_options import Asked, asks_seeder
from imagedist.errors import SourceError
from imagedist.plain import plain

if TYPE_CHECKING:
    from imagedist.site.seeders import Seeders
    from imagedist.site_sync import SyncStatus

sync = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Tags between sites, by the rules of the seeder's file: docs/sync.md.",
)
app.add_typer(sync, name="sync")

_PLAN_SECONDS = 1800.0
"""A plan of 10,000 tags asks the registry for each."""
_ASK_SECONDS = 0.5
_UNREACHABLE_SECONDS = 60.0
"""A seeder, or another site, that is restarted meanwhile is waited for."""


@sync.command()
@asks_seeder
def plan(asked: Asked) -> None:
    """Print what would move, to which site, and how many bytes of blobs each lacks. Nothing moves.

    Exit code 1 if something could not be found out.
    """
    from imagedist.cli.sync_text import plan_text
    from imagedist.site_sync import SyncPlan

    found = asked.ask(lambda site: site.call("GET", "syncs/plan", SyncPlan, wait_seconds=_PLAN_SECONDS))
    print(found.model_dump_json() if asked.as_json else plain(plan_text(found)))
    for error in found.errors:
        print(f"imagedist: {plain(error)}", file=sys.stderr)
    if found.errors:
        raise typer.Exit(1)


@sync.command()
@asks_seeder
def run(
    asked: Asked,
    wait: Annotated[bool, typer.Option("--wait", help="Until all of it is done, at the other sites as well.")] = False,
    allow_deletions: Annotated[
        bool, typer.Option("--allow-deletions", help="Even of most tags of a repository, which are held back else.")
    ] = False,
) -> None:
    """Look through the registry now, ask the other sites, and try again what has failed.

    With --wait exit code 0 only when every tag is set where its rule says. Ctrl-C ends the waiting, not the work.
    """
    from imagedist.cli.sync_text import problems, summary
    from imagedist.site_sync import SyncStatus

    async def ask(site: Seeders) -> SyncStatus:
        begun = await site.call("POST", f"syncs/run{'?deletions=1' if allow_deletions else ''}", SyncStatus)
        return await _followed(site) if wait else begun

    found = asked.ask(ask)
    print(found.model_dump_json() if asked.as_json else plain(summary(found)))
    if wait and _show_problems(problems(found)):
        raise typer.Exit(1)


@sync.command()
@asks_seeder
def status(asked: Asked) -> None:
    """Show the rules, the sites that are followed and fed, the queue, the conflicts. Exit code 1 if something fails."""
    from imagedist.cli.sync_text import problems, status_text
    from imagedist.site_sync import SyncStatus

    found = asked.ask(lambda site: site.call("GET", "syncs?destinations=1", SyncStatus))
    print(found.model_dump_json() if asked.as_json else plain(status_text(found)))
    if _show_problems(problems(found)):
        raise typer.Exit(1)


async def _followed(site: Seeders) -> SyncStatus:
    """How it ended. Raises SourceError: the seeder was away for too long."""
    import asyncio

    from imagedist.cli.sync_text import summary
    from imagedist.site_sync import SyncStatus

    loop = asyncio.get_running_loop()
    answered_at = reached_at = loop.time()
    shown = ""
    while True:
        try:
            found = await site.call("GET", "syncs?destinations=1", SyncStatus)
        except SourceError:
            if loop.time() - answered_at > _UNREACHABLE_SECONDS:
                raise
        else:
            answered_at = loop.time()
            if not any(each.error for each in found.destinations) and not any(each.error for each in found.follows):
                reached_at = answered_at
            is_done = not found.is_scanning and not found.waiting
            is_lost = answered_at - reached_at > _UNREACHABLE_SECONDS
            is_there = reached_at == answered_at and not any(each.is_behind for each in found.destinations)
            if is_done and (is_lost or is_there):
                return found
            if (line := summary(found)) != shown:
                shown = line
                print(plain(line), file=sys.stderr)
        await asyncio.sleep(_ASK_SECONDS)


def _show_problems(found: list[str]) -> bool:
    for problem in found:
        print(f"imagedist: {plain(problem)}", file=sys.stderr)
    return bool(found)
