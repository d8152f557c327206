"""What a command says when its site refuses it."""

from __future__ import annotations

import pytest
from aiohttp import web

from imagedist.cli.site_access import SiteAccess
from imagedist.errors import SourceError, UnauthorizedError
from imagedist.service import render_site_errors, serving
from imagedist.site_guard import require_site_token
from imagedist.site_sync import BackupList
from imagedist.verify.place import SitePlace
from tests.doctor.servers import HERE

GUARDED = "/site/v1/backups", "/site/v1/synced"


def site() -> web.Application:
    return web.Application(middlewares=[render_site_errors, require_site_token("s3cret", secret=GUARDED)])


@pytest.mark.parametrize(("token", "says"), [(None, "none was given"), ("other", "the one given is not that")])
async def test_who_has_not_the_sites_token_is_told_how_to_give_it(token: str | None, says: str) -> None:
    async with serving(site(), HERE) as address:
        with pytest.raises(UnauthorizedError, match=f"{says}: name the token's file by --token-file"):
            async with SiteAccess([], token, None, [f"http://{address}"]).opened() as opened:
                await opened.seeders.call("GET", "backups", BackupList)


async def test_verify_names_the_site_that_wants_a_token() -> None:
    async with serving(site(), HERE) as address:
        place = SitePlace(f"http://{address}", None)
        try:
            with pytest.raises(SourceError, match=rf"site:http://{address} .*--token-file"):
                await place.repositories()
        finally:
            await place.close()
