"""``imagedist nodes``: the site's inventory of nodes, and what an operator does with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.cli.command import app
from imagedist.cli.seeder_options import Asked, asks_seeder
from imagedist.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from imagedist.nodes import NodeStatus
    from imagedist.site.seeders import Seeders

nodes = typer.Typer(no_args_is_help=False, add_completion=False, rich_markup_mode=None)
app.add_typer(nodes, name="nodes")

Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="As `imagedist nodes` lists them.", show_default=False)]


@nodes.callback(invoke_without_command=True)
@asks_seeder
def show(
    asked: Asked,
    context: typer.Context,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only nodes that have it; repeatable.")
    ] = None,
) -> None:
    """List the site's nodes: who lives, labels, versions, disks, what is cached and unpacked."""
    if context.invoked_subcommand is not None:
        if any((label, asked.seeder, asked.token_file, asked.config, asked.as_json)):
            raise InputError(f"options of `nodes {context.invoked_subcommand}` come after its name")
        return
    from imagedist.nodes import NodeList
    from imagedist.render import node_table

    wanted = dict(_label(each) for each in label or ())
    listed = asked.ask(lambda site: site.call("GET", "nodes", NodeList))
    found = [node for node in listed.nodes if wanted.items() <= node.labels.items()]
    if asked.as_json:
        print(listed.model_copy(update={"nodes": tuple(found)}).model_dump_json())
    else:
        print(node_table(found))


@nodes.command()
@asks_seeder
def pause(asked: Asked, ids: Ids) -> None:
    """Have preheats leave nodes alone, as for maintenance: no work, and nobody waits for them."""
    _change(ids, True, asked)


@nodes.command()
@asks_seeder
def resume(asked: Asked, ids: Ids) -> None:
    """End a pause: the nodes catch up with what they missed."""
    _change(ids, False, asked)


@nodes.command()
@asks_seeder
def forget(asked: Asked, ids: Ids) -> None:
    """Take nodes that will not come back out of the inventory. One that still lives is back with its next heartbeat."""

    async def ask(site: Seeders) -> list[str]:
        for node_id in ids:
            await site.order("DELETE", f"nodes/{_checked(node_id)}")
        return ids

    forgotten = asked.ask(ask)
    if asked.as_json:
        import json

        print(json.dumps({"format": 1, "forgotten": forgotten}))
    else:
        print("\n".join(f"forgotten {node_id}" for node_id in forgotten))


def _change(ids: Sequence[str], is_paused: bool, asked: Asked) -> None:
    from imagedist.nodes import NodeList, NodeOrder, NodeStatus
    from imagedist.render import node_table

    order = NodeOrder(is_paused=is_paused).model_dump(mode="json")

    async def ask(site: Seeders) -> list[NodeStatus]:
        return [await site.call("PATCH", f"nodes/{_checked(node_id)}", NodeStatus, order) for node_id in ids]

    changed = asked.ask(ask)
    print(NodeList(nodes=tuple(changed)).model_dump_json() if asked.as_json else node_table(changed))


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
