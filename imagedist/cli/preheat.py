"""``imagedist preheat``: images on nodes before they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imagedist.cli.command import app
from imagedist.cli.seeder_options import Asked, asks_seeder
from imagedist.errors import InputError, NotFoundError, PreconditionError, SourceError
from imagedist.plain import plain

if TYPE_CHECKING:
    from imagedist.preheat.shapes import PreheatStatus
    from imagedist.site.seeders import Seeders

preheat = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Place images on nodes before they are needed: docs/preheat.md.",
)
app.add_typer(preheat, name="preheat")

Name = Annotated[str, typer.Argument(help="The rule's name, as `imagedist preheat status` lists them.")]

_ASK_SECONDS = 1.0
_UNREACHABLE_SECONDS = 300.0
"""A seeder that is restarted meanwhile is waited for."""


@preheat.command()
@asks_seeder
def run(
    asked: Asked,
    file: Annotated[Path, typer.Argument(help="The rule: a TOML file.", show_default=False)],
    wait: Annotated[bool, typer.Option("--wait", help="Until the run is over; then its summary.")] = False,
) -> None:
    """Begin a run of a rule, made for cron: again changes nothing that is right, and one waits at a time.

    Exit code 0 only when every target node has confirmed every image, verified. Without --wait that is so only if
    nothing was missing. Ctrl-C ends the waiting, not the run.
    """
    from imagedist.config import load
    from imagedist.preheat.rule import PreheatRule

    rule = load(file, PreheatRule)
    with _alone(file, rule.name):

        async def ask(site: Seeders) -> PreheatStatus:
            begun = await _begin(site, rule.name, rule.model_dump(mode="json"))
            return await _followed(site, begun) if wait else begun

        _end(asked.ask(ask), asked.as_json)


@preheat.command()
@asks_seeder
def status(
    asked: Asked,
    name: Annotated[str | None, typer.Argument(help="A rule's name; without it all are listed.")] = None,
    node: Annotated[str | None, typer.Option(help="Each layer on this node.", metavar="ID")] = None,
) -> None:
    """Show what is true now: the rules, or of one rule every node; exit code 1 if some node has not confirmed all."""
    from imagedist.cli import preheat_text as text
    from imagedist.preheat.shapes import PreheatList, PreheatStatus

    if name is None:
        if node is not None:
            raise InputError("--node shows one rule on one node: name the rule, too")
        listed = asked.ask(lambda site: site.call("GET", "preheats", PreheatList))
        print(listed.model_dump_json() if asked.as_json else text.preheat_table(listed.preheats))
        return
    path = f"preheats/{_checked(name)}?layers"
    found = asked.ask(lambda site: site.call("GET", path, PreheatStatus))
    if node is not None:
        nodes = [each for each in found.nodes if each.id == node]
        if not nodes:
            raise NotFoundError(f"preheat {name} is not about a node {node}")
        found = found.model_copy(update={"nodes": tuple(nodes)})
    if asked.as_json:
        print(found.model_dump_json())
    elif node is not None:
        print(plain(text.node_layers(found.nodes[0])))
    else:
        print(plain(f"{text.summary(found)}\n\n{text.preheat_nodes(found)}"))
    is_right = found.is_confirmed if node is None else found.nodes[0].outcome == "done"
    if not is_right:
        raise typer.Exit(1)


@preheat.command()
@asks_seeder
def suggest(
    asked: Asked,
    share: Annotated[float, typer.Option(help="Of the site's images that must share the layers.")] = 0.5,
    images: Annotated[int, typer.Option(help="At most so many images that carry them.", min=1, max=50)] = 5,
    name: Annotated[str, typer.Option(help="Of the rule.")] = "base",
) -> None:
    """Print a rule with the measured base layers: those that most images which the site has pulled stand upon."""
    from imagedist.cli.preheat_text import suggestion_text
    from imagedist.preheat.shapes import Suggestions

    path = f"suggested-preheats?share={share}&images={images}"
    found = asked.ask(lambda site: site.call("GET", path, Suggestions))
    print(found.model_dump_json() if asked.as_json else plain(suggestion_text(found, name)))


@preheat.command()
@asks_seeder
def pause(asked: Asked, name: Name) -> None:
    """Let no node work for a rule. What is there stays and stays pinned."""
    _order(name, "paused", asked)


@preheat.command()
@asks_seeder
def resume(asked: Asked, name: Name) -> None:
    """Go on after a pause."""
    _order(name, "active", asked)


@preheat.command()
@asks_seeder
def cancel(asked: Asked, name: Name) -> None:
    """End a rule's run for good; what is there stays, pinned, and the next run goes on from it."""
    _order(name, "cancelled", asked)


@preheat.command()
@asks_seeder
def remove(asked: Asked, name: Name) -> None:
    """Take a rule away, and with it its pins: nodes may let its images go."""
    path = f"preheats/{_checked(name)}"
    asked.ask(lambda site: site.order("DELETE", path))
    print(f'{{"format": 1, "removed": "{name}"}}' if asked.as_json else f"removed preheat {name}")


def _order(name: str, state: Literal["active", "paused", "cancelled"], asked: Asked) -> None:
    from imagedist.cli.preheat_text import summary
    from imagedist.preheat.shapes import PreheatOrder, PreheatStatus

    path, body = f"preheats/{_checked(name)}", PreheatOrder(state=state).model_dump(mode="json")
    found = asked.ask(lambda site: site.call("PATCH", path, PreheatStatus, body))
    print(found.model_dump_json() if asked.as_json else plain(summary(found)))


async def _begin(site: Seeders, name: str, body: object) -> PreheatStatus:
    from imagedist.preheat.shapes import PreheatStatus

    return await site.call("PUT", f"preheats/{name}", PreheatStatus, body, wait_seconds=300)


async def _followed(site: Seeders, begun: PreheatStatus) -> PreheatStatus:
    """Until this very run is over, or another one has taken its place.

    Raises:
        NotFoundError: the rule was removed meanwhile. SourceError: the seeder stays away.
    """
    import asyncio

    from imagedist.preheat.shapes import PreheatStatus

    found, loop = begun, asyncio.get_running_loop()
    heard_at = loop.time()
    while not found.is_over and found.run == begun.run:
        await asyncio.sleep(_ASK_SECONDS)
        try:
            found = await site.call("GET", f"preheats/{begun.name}", PreheatStatus)
            heard_at = loop.time()
        except SourceError:
            if loop.time() - heard_at > _UNREACHABLE_SECONDS:
                raise
    if found.run != begun.run:
        raise PreconditionError(f"run {begun.run} of preheat {begun.name} gave way to run {found.run}: see its status")
    return found


def _end(found: PreheatStatus, as_json: bool) -> None:
    from imagedist.cli.preheat_text import summary

    print(found.model_dump_json() if as_json else plain(summary(found)))
    if not found.is_confirmed:
        raise typer.Exit(1)


@contextmanager
def _alone(file: Path, name: str) -> Iterator[None]:
    """One command at a time runs a rule's file: its lock lies on the file itself, and ends with the process.

    Raises:
        SourceError: another one is at it.
    """
    import fcntl

    try:
        opened = file.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SourceError(
                f"`imagedist preheat run {file}` is at work already: see `imagedist preheat status {name}`"
            ) from error
        yield


def _checked(name: str) -> str:
    """As a component of a path."""
    if not name or not all(letter.isalnum() or letter in "._-" for letter in name):
        raise NotFoundError(f"no preheat {name!r} at this site")
    return name
