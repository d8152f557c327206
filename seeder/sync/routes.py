"""``/site/v1/syncs``: how far sync is, what it would do, an order to do it now, what registries notify; backups."""

from __future__ import annotations

from aiohttp import web
from pydantic import BaseModel, ValidationError

from imagedist.errors import InputError
from imagedist.oci.reference import is_name
from imagedist.site_sync import RestoreOrder
from seeder.sync.service import Sync
from seeder.sync.webhooks import parse_webhook

SYNC_KEY = web.AppKey("sync", Sync)
WEBHOOK_PATH = "/site/v1/syncs/webhook"
BACKUPS_PATH = "/site/v1/backups"


def add_sync_routes(app: web.Application) -> None:
    """For the app's ``SYNC_KEY``."""

    async def status(request: web.Request) -> web.Response:
        """``?destinations=1``: those sites that rules name are asked as well."""
        with_destinations = request.query.get("destinations") == "1"
        return _json(await request.app[SYNC_KEY].status(with_destinations=with_destinations))

    async def plan(request: web.Request) -> web.Response:
        return _json(await request.app[SYNC_KEY].plan())

    async def run(request: web.Request) -> web.Response:
        """``?deletions=1``: even most tags of a repository at a time. 202: it has begun."""
        await request.app[SYNC_KEY].run_now(may_delete=request.query.get("deletions") == "1")
        return _json(await request.app[SYNC_KEY].status(with_destinations=False), 202)

    async def webhook(request: web.Request) -> web.Response:
        """``?from=UPSTREAM``. Always 202 for what is understood, or registries send again what no rule covers."""
        upstream = request.query.get("from")
        if upstream is not None and not is_name(upstream):
            raise InputError(f"invalid from {upstream[:100]!r}: expected the name of one of the proxy's upstreams")
        covered = await request.app[SYNC_KEY].hint(upstream, parse_webhook(await request.read()))
        return web.json_response({"format": 1, "covered": covered}, status=202)

    async def backups(request: web.Request) -> web.Response:
        """With the logins that the site's proxies need: guarded although it is only read."""
        return _json(request.app[SYNC_KEY].backups())

    async def restore(request: web.Request) -> web.Response:
        """A ``RestoreOrder``. 202: what is missing is being brought."""
        order = await _order(request)
        return _json(await request.app[SYNC_KEY].restore(order), 200 if order.is_dry else 202)

    async def restoring(request: web.Request) -> web.Response:
        """POST, as the names of private images are in it."""
        return _json(await request.app[SYNC_KEY].restoring((await _order(request)).source))

    app.add_routes(
        [
            web.get("/site/v1/syncs", status),
            web.get("/site/v1/syncs/plan", plan),
            web.post("/site/v1/syncs/run", run),
            web.post(WEBHOOK_PATH, webhook),
            web.get(BACKUPS_PATH, backups),
            web.post("/site/v1/restores", restore),
            web.post("/site/v1/restores/status", restoring),
        ]
    )


async def _order(request: web.Request) -> RestoreOrder:
    try:
        return RestoreOrder.model_validate_json(await request.read())
    except ValidationError as error:
        raise InputError(f"malformed order to restore: {error.errors()[0]['msg']}") from error


def _json(shape: BaseModel, status: int = 200) -> web.Response:
    return web.json_response(body=shape.model_dump_json().encode(), status=status)
