"""``/site/v1/preheats``: rules and their runs; ``/site/v1/nodes/{id}/work``: where nodes ask for work."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel

from imagedist.errors import InputError
from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import PreheatList, PreheatOrder
from imagedist.service import site_error, wait_unless_stopping
from seeder.node_routes import read_shape
from seeder.preheat.images import Images
from seeder.preheat.preheats import MAX_WAIT_SECONDS, PREHEATS_KEY

NumberT = TypeVar("NumberT", int, float)


def add_preheat_routes(app: web.Application, images: Images) -> None:
    """For the app's ``PREHEATS_KEY``."""

    async def run(request: web.Request) -> web.Response:
        rule = await read_shape(request, PreheatRule, "rule")
        if rule.name != request.match_info["name"]:
            raise InputError(f"the rule is named {rule.name}, not {request.match_info['name'][:80]}")
        return _json(await request.app[PREHEATS_KEY].run(rule))

    async def show(request: web.Request) -> web.Response:
        return _json(
            request.app[PREHEATS_KEY].status(request.match_info["name"], with_images="layers" in request.query)
        )

    async def change(request: web.Request) -> web.Response:
        order = await read_shape(request, PreheatOrder, "order")
        return _json(await request.app[PREHEATS_KEY].order(request.match_info["name"], order.state))

    async def remove(request: web.Request) -> web.Response:
        await request.app[PREHEATS_KEY].remove(request.match_info["name"])
        return web.Response(status=204)

    async def show_all(request: web.Request) -> web.Response:
        return _json(PreheatList(preheats=tuple(request.app[PREHEATS_KEY].all())))

    async def suggested(request: web.Request) -> web.Response:
        share, count = _number(request, "share", float, 0.5), _number(request, "images", int, 5)
        if not 0 < share <= 1 or not 1 <= count <= 50:
            raise InputError("expected a share above 0 and up to 1, and 1 to 50 images")
        return _json(await images.suggestions(share, count))

    async def work(request: web.Request) -> web.Response:
        preheats, node_id = request.app[PREHEATS_KEY], request.match_info["id"]
        working = asyncio.create_task(preheats.work(node_id, await request.read()))
        try:
            await wait_unless_stopping(request, working, 2 * MAX_WAIT_SECONDS)
            if not working.done():
                return site_error(503, "STOPPING", "this seeder is about to stop: ask again")
            return _json(working.result())
        finally:
            working.cancel()
            await asyncio.wait([working])

    one = "/site/v1/preheats/{name}"
    app.add_routes(
        [
            web.get("/site/v1/preheats", show_all),
            web.get("/site/v1/suggested-preheats", suggested),
            web.put(one, run),
            web.get(one, show),
            web.patch(one, change),
            web.delete(one, remove),
            web.post("/site/v1/nodes/{id}/work", work),
        ]
    )


def _json(shape: BaseModel) -> web.Response:
    return web.json_response(body=shape.model_dump_json().encode())


def _number(request: web.Request, name: str, kind: type[NumberT], default: NumberT) -> NumberT:
    try:
        return kind(request.query.get(name, default))
    except ValueError:
        raise InputError(f"bad {name}: expected a number, got {request.query[name][:40]!r}") from None
