"""``imagedist restore``: a site's store rebuilt from a backup."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import app
from imagedist.cli.seeder_options import Asked, asks_seeder
from imagedist.errors import NotFoundError, SourceError
from imagedist.plain import plain

if TYPE_CHECKING:
    from imagedist.site.seeders import Seeders
    from imagedist.site_sync import RestoreOrder, RestorePlan, RestoreStatus

_PLAN_SECONDS = 1800.0
"""10,000 tags are asked for one by one."""
_ASK_SECONDS = 0.5
_UNREACHABLE_SECONDS = 60.0
"""A seeder that is restarted meanwhile is waited for."""
_DONE = ("here", "newer", "deleted")


@app.command()
@asks_seeder
def restore(
    asked: Asked,
    source: Annotated[
        str, typer.Argument(metavar="BACKUP", help="As the seeder's file calls it: of [backups], or of [sites].")
    ],
    repository: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these, with the registry's name (local/team/app): names, globs, or expressions between slashes; "
            "repeatable. Default: all."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what is missing here, and bring nothing.")] = False,
) -> None:
    """Bring every tag that a backup has into this site's store, with all its blobs, as far as they are not there.

    Waits until all of it is there. Run it again after an interruption: what has come stays. Exit code 0 only when every
    tag has been found whole in the store, every blob checked by its digest when it came. Ctrl-C ends the waiting, not
    the work: `imagedist sync status`.
    """
    from imagedist.cli.restore_text import plan_text, summary
    from imagedist.site_sync import RestoreOrder

    order = RestoreOrder(source=source, repositories=tuple(repository or ()), is_dry=dry_run)

    async def ask(site: Seeders) -> RestorePlan:
        plan = await _find(site, order)
        if dry_run:
            return plan
        if any(line.action not in _DONE for line in plan.lines):
            if not asked.as_json:
                print(plain(plan_text(plan)))
            await _wait(site, source)
            return await _find(site, order.model_copy(update={"is_dry": True}))
        return plan

    plan = asked.ask(ask)
    if repository and not plan.lines and not plan.errors:
        raise NotFoundError(
            f"{source} has no tag of {', '.join(repository)}: expected repositories with the registry's name before "
            "them, such as local/team/app"
        )
    missing = [line for line in plan.lines if line.action not in _DONE]
    if asked.as_json:
        print(plan.model_dump_json())
    elif dry_run:
        print(plain(plan_text(plan)))
    else:
        print(plain(summary(plan)))
    for error in plan.errors:
        print(f"imagedist: {plain(error)}", file=sys.stderr)
    if plan.errors or (missing and not dry_run):
        raise typer.Exit(1)


async def _find(site: Seeders, order: RestoreOrder) -> RestorePlan:
    from imagedist.site_sync import RestorePlan

    body = order.model_dump(mode="json")
    return await site.call("POST", "restores", RestorePlan, body, wait_seconds=_PLAN_SECONDS)


async def _wait(site: Seeders, source: str) -> None:
    """Until nothing is left, or what is left has failed several times. Raises SourceError: the seeder is away."""
    import asyncio

    from imagedist.cli.restore_text import progress
    from imagedist.site_sync import RestoreStatus

    loop = asyncio.get_running_loop()
    answered_at, shown = loop.time(), ""
    while True:
        try:
            status = await site.call("POST", "restores/status", RestoreStatus, {"source": source})
        except SourceError:
            if loop.time() - answered_at > _UNREACHABLE_SECONDS:
                raise
        else:
            answered_at = loop.time()
            if status.stuck == status.waiting:
                _tell(status)
                return
            if (line := progress(status)) != shown:
                shown = line
                print(plain(line), file=sys.stderr)
        await asyncio.sleep(_ASK_SECONDS)


def _tell(status: RestoreStatus) -> None:
    for error in status.errors:
        print(f"imagedist: {plain(error)}", file=sys.stderr)
