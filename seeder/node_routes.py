"""``/site/v1/nodes``: heartbeats, the inventory, and what an operator does with a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from imagedist.errors import InputError
from imagedist.nodes import Heartbeat, NodeList, NodeOrder
from seeder.nodes import Nodes

ShapeT = TypeVar("ShapeT", bound=BaseModel)


async def _not_saved() -> None:
    """Of an inventory without rows."""


def add_node_routes(
    app: web.Application,
    nodes: Nodes,
    require_lead: Callable[[], None] = lambda: None,
    save: Callable[[], Awaitable[None]] = _not_saved,
) -> None:
    """Adds ``GET /site/v1/nodes``, and of one node ``PUT`` (a heartbeat), ``PATCH`` (pause) and ``DELETE`` (forget).

    Args:
        require_lead: raises OverloadedError where this seeder hears of nodes, but another one knows what holds.
        save: called before what an operator has said is answered.
    """

    async def beat(request: web.Request) -> web.Response:
        heartbeat = await read_shape(request, Heartbeat, "heartbeat")
        peer = request.transport.get_extra_info("peername") if request.transport else None
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        nodes.beat(request.match_info["id"], heartbeat, address)
        return web.Response(status=204)

    async def change(request: web.Request) -> web.Response:
        require_lead()
        order = await read_shape(request, NodeOrder, "order")
        status = nodes.pause(request.match_info["id"], order.is_paused)
        await save()
        return web.json_response(body=status.model_dump_json().encode())

    async def forget(request: web.Request) -> web.Response:
        require_lead()
        nodes.forget(request.match_info["id"])
        await save()
        return web.Response(status=204)

    async def describe(request: web.Request) -> web.Response:
        require_lead()
        listed = NodeList(nodes=tuple(nodes.describe()))
        return web.json_response(body=listed.model_dump_json().encode())

    one = "/site/v1/nodes/{id}"
    app.add_routes(
        [
            web.get("/site/v1/nodes", describe),
            web.put(one, beat),
            web.patch(one, change),
            web.delete(one, forget),
        ]
    )


async def read_shape(request: web.Request, shape: type[ShapeT], what: str) -> ShapeT:
    """A body of JSON. Raises InputError: not of this shape; names where."""
    try:
        return shape.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InputError(f"bad {what}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
