"""The caps on what leaves the site's host, shown and changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.distribution.egress import EGRESS_FILE, Egress
from imagedist.service import render_site_errors
from seeder.limits import UploadCaps, add_limit_routes

LIMITS = "/site/v1/limits"
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def proxys(tmp_path: Path) -> Egress:
    """The cap as the proxy of the host sees it."""
    egress = Egress(tmp_path / EGRESS_FILE)
    egress.configure(5_000_000)
    return egress


@pytest.fixture
async def client(tmp_path: Path, proxys: Egress) -> AsyncIterator[Client]:
    app = web.Application(middlewares=[render_site_errors])
    own = Egress(tmp_path / EGRESS_FILE)
    add_limit_routes(app, UploadCaps(2_000_000, own))
    async with TestClient(TestServer(app)) as client:
        yield client
    own.close()
    proxys.close()


def rates(told: dict[str, dict[str, int | None]]) -> tuple[int | None, int | None]:
    return told["egress"]["bytes_per_second"], told["upload"]["bytes_per_second"]


async def test_the_hosts_cap_is_changed_for_the_proxy_as_well(client: Client, proxys: Egress) -> None:
    async with client.get(LIMITS) as response:
        assert rates(await response.json()) == (5_000_000, 2_000_000)
    async with client.patch(LIMITS, json={"egress": "1MB/s"}) as response:
        assert rates(await response.json()) == (1_000_000, 2_000_000)
    assert proxys.rate_bytes_per_second == 1_000_000
    async with client.patch(LIMITS, json={"upload": "none"}) as response:
        assert rates(await response.json()) == (1_000_000, None)
    async with client.patch(LIMITS, json={"reset": True}) as response:
        assert rates(await response.json()) == (5_000_000, 2_000_000)
    assert proxys.rate_bytes_per_second == 5_000_000


@pytest.mark.parametrize("order", [{"egress": "fast"}, {"egress": "1MB/s", "upload": "0"}, {"download": "1MB/s"}, []])
async def test_an_order_that_is_wrong_changes_nothing(client: Client, order: object) -> None:
    async with client.patch(LIMITS, json=order) as response:
        assert response.status == 400
    async with client.get(LIMITS) as response:
        assert rates(await response.json()) == (5_000_000, 2_000_000)


async def test_both_caps_are_asked_before_anything_is_sent(tmp_path: Path) -> None:
    now, slept = 100.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        now += seconds
        slept += seconds

    egress = Egress(tmp_path / EGRESS_FILE, clock=lambda: now, sleep=sleep)
    egress.set(1000)
    caps = UploadCaps(None, egress)
    for _ in range(20):
        await caps.take(100)
    assert slept == pytest.approx(2.0, abs=0.15)
    egress.close()
