"""``imagedist nodes``: the site's inventory of nodes, and what an operator does with one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from imagedist.cli.command import Json, Socket, app, explained, interruptible
from imagedist.cli.site_access import Config, Seeder, TokenFile, seeder_access
from imagedist.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from imagedist.nodes import NodeStatus
    from imagedist.site.seeders import Seeders

AnswerT = TypeVar("AnswerT")

nodes = typer.Typer(no_args_is_help=False, add_completion=False, rich_markup_mode=None)
app.add_typer(nodes, name="nodes")

Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="As `imagedist nodes` lists them.", show_default=False)]


def ask_seeder(
    ask: Callable[[Seeders], Awaitable[AnswerT]],
    seeder: list[str] | None,
    token_file: Path | None,
    config: Path | None,
    socket: Path | None,
) -> AnswerT:
    """One question, with the options that say whom."""
    access = seeder_access(seeder, token_file, config, socket)

    async def asked() -> AnswerT:
        async with access.opened() as site:
            return await ask(site.seeders)

    return interruptible(asked())


@nodes.callback(invoke_without_command=True)
@explained
def show(
    context: typer.Context,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only nodes that have it; repeatable.")
    ] = None,
    seeder: Seeder = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """List the site's nodes: who lives, labels, versions, disks, what is cached and unpacked."""
    if context.invoked_subcommand is not None:
        if any((label, seeder, token_file, config, as_json)):
            raise InputError(f"options of `nodes {context.invoked_subcommand}` come after its name")
        return
    from imagedist.nodes import NodeList
    from imagedist.render import node_table

    wanted = dict(_label(each) for each in label or ())
    listed = ask_seeder(lambda site: site.call("GET", "nodes", NodeList), seeder, token_file, config, socket)
    found = [node for node in listed.nodes if wanted.items() <= node.labels.items()]
    if as_json:
        print(listed.model_copy(update={"nodes": tuple(found)}).model_dump_json())
    else:
        print(node_table(found))


@nodes.command()
@explained
def pause(
    ids: Ids,
    seeder: Seeder = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Have preheats leave nodes alone, as for maintenance: no work, and nobody waits for them."""
    _change(ids, True, seeder, token_file, config, socket, as_json)


@nodes.command()
@explained
def resume(
    ids: Ids,
    seeder: Seeder = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """End a pause: the nodes catch up with what they missed."""
    _change(ids, False, seeder, token_file, config, socket, as_json)


@nodes.command()
@explained
def forget(
    ids: Ids,
    seeder: Seeder = None,
    token_file: TokenFile = None,
    config: Config = None,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Take nodes that will not come back out of the inventory. One that still lives is back with its next heartbeat."""

    async def ask(site: Seeders) -> list[str]:
        for node_id in ids:
            await site.order("DELETE", f"nodes/{_checked(node_id)}")
        return ids

    forgotten = ask_seeder(ask, seeder, token_file, config, socket)
    if as_json:
        import json

        print(json.dumps({"format": 1, "forgotten": forgotten}))
    else:
        print("\n".join(f"forgotten {node_id}" for node_id in forgotten))


def _change(
    ids: Sequence[str],
    is_paused: bool,
    seeder: list[str] | None,
    token_file: Path | None,
    config: Path | None,
    socket: Path | None,
    as_json: bool,
) -> None:
    from imagedist.nodes import NodeList, NodeOrder, NodeStatus
    from imagedist.render import node_table

    order = NodeOrder(is_paused=is_paused).model_dump(mode="json")

    async def ask(site: Seeders) -> list[NodeStatus]:
        return [await site.call("PATCH", f"nodes/{_checked(node_id)}", NodeStatus, order) for node_id in ids]

    changed = ask_seeder(ask, seeder, token_file, config, socket)
    print(NodeList(nodes=tuple(changed)).model_dump_json() if as_json else node_table(changed))


def _checked(node_id: str) -> str:
    """As a component of a path."""
    if not node_id or not all(letter.isalnum() or letter in "._-" for letter in node_id):
        raise NotFoundError(f"no node {node_id!r} in the site's inventory: see `imagedist nodes`")
    return node_id


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InputError(f"bad --label {text!r}: expected NAME=VALUE")
    return name, value
