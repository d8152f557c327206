"""``GET|PATCH /site/v1/limits``: the caps on what leaves this host, shown and changed while everything runs."""

from __future__ import annotations

from aiohttp import web
from pydantic import ValidationError

from imagedist.config.values import parse_rate
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.distribution.egress import Egress
from imagedist.errors import InputError
from imagedist.site_limits import SiteLimit, SiteLimits, SiteLimitsOrder


class UploadCaps:
    """What the seeder's peers get together: its own cap, and its part of the host's.

    Args:
        upload: of the seeder, as configured; until it ends, or is changed again.
        egress: of all that this host's proxy and seeder send.
    """

    def __init__(self, upload: int | None, egress: Egress) -> None:
        self._configured = upload
        self._upload = ChangingRate(upload)
        self._egress = egress

    async def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may be sent."""
        if self._upload.rate_bytes_per_second is not None:
            await self._upload.take(size_bytes)
        await self._egress.take(size_bytes)

    def change(self, order: SiteLimitsOrder) -> None:
        """
        Raises:
            InputError: not a rate; nothing was changed.
        """
        upload = parse_rate(order.upload) if order.upload is not None else None
        egress = parse_rate(order.egress) if order.egress is not None else None
        if order.reset:
            self._upload.set(self._configured)
            self._egress.set(self._egress.configured_bytes_per_second)
        if order.upload is not None:
            self._upload.set(upload)
        if order.egress is not None:
            self._egress.set(egress)

    def describe(self) -> SiteLimits:
        return SiteLimits(
            egress=SiteLimit(
                bytes_per_second=self._egress.rate_bytes_per_second,
                configured_bytes_per_second=self._egress.configured_bytes_per_second,
            ),
            upload=SiteLimit(
                bytes_per_second=self._upload.rate_bytes_per_second, configured_bytes_per_second=self._configured
            ),
        )


def add_limit_routes(app: web.Application, caps: UploadCaps) -> None:
    async def show(request: web.Request) -> web.Response:
        return web.json_response(caps.describe().model_dump(mode="json"))

    async def change(request: web.Request) -> web.Response:
        try:
            order = SiteLimitsOrder.model_validate_json(await request.read())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise InputError(f"bad limits: {where}: {first['msg']}") from error
        caps.change(order)
        return await show(request)

    app.add_routes([web.get("/site/v1/limits", show), web.patch("/site/v1/limits", change)])
