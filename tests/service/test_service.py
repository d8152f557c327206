"""The shared service parts: health, site errors, the guard, a port in use."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import (
    ImagedistError,
    InputError,
    IntegrityError,
    NotFoundError,
    OverloadedError,
    SourceError,
    StorageError,
)
from imagedist.service import add_health_routes, render_site_errors, serving
from imagedist.site_guard import require_site_token

LOOPBACK = Address("127.0.0.1", 0)


def guarded_app(token: str | None) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="done")

    app = web.Application(middlewares=[render_site_errors, require_site_token(token, secret=["/site/v1/secret"])])
    for name in ("thing", "secret"):
        app.router.add_route("*", f"/site/v1/{name}", answer)
    return app


async def status_of(address: Address, method: str, headers: dict[str, str] | None = None, name: str = "thing") -> int:
    async with aiohttp.ClientSession() as client:
        async with client.request(method, f"http://{address}/site/v1/{name}", headers=headers) as response:
            return response.status


async def test_what_is_secret_is_read_with_the_token_only() -> None:
    async with serving(guarded_app("right"), LOOPBACK) as address:
        assert await status_of(address, "GET") == 200
        assert await status_of(address, "GET", name="secret") == 401
        assert await status_of(address, "GET", name="%73ecret") == 401
        assert await status_of(address, "GET", {"Authorization": "Bearer right"}, name="secret") == 200


async def test_readiness_says_why_not() -> None:
    reasons: list[str | None] = [None, "still starting"]

    async def ready() -> str | None:
        return reasons.pop(0)

    app = web.Application()
    add_health_routes(app, ready)
    async with serving(app, LOOPBACK) as address, aiohttp.ClientSession() as client:
        seen = []
        for path in ("livez", "readyz", "readyz", "metrics"):
            async with client.get(f"http://{address}/{path}") as response:
                seen.append((response.status, await response.text()))
    assert seen[:3] == [(200, "ok\n"), (200, "ok\n"), (503, "still starting\n")]
    assert "imagedist_tracker_peers" in seen[3][1]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InputError("x"), 400, "BAD_REQUEST"),
        (NotFoundError("x"), 404, "NOT_FOUND"),
        (OverloadedError("x"), 503, "OVERLOADED"),
        (SourceError("x"), 502, "SOURCE_FAILED"),
        (IntegrityError("x"), 422, "INTEGRITY"),
        (StorageError("x"), 507, "STORAGE_FAILED"),
        (web.HTTPConflict(text="x"), 409, "CONFLICT"),
    ],
)
async def test_errors_of_site_routes_are_json(error: ImagedistError, status: int, code: str) -> None:
    async def fail(request: web.Request) -> web.Response:
        raise error

    app = web.Application(middlewares=[render_site_errors])
    app.router.add_get("/site/v1/thing", fail)
    async with serving(app, LOOPBACK) as address, aiohttp.ClientSession() as client:
        async with client.get(f"http://{address}/site/v1/thing") as response:
            assert response.status == status
            assert await response.json() == {"error": {"code": code, "message": "x"}}


async def test_with_a_token_changing_needs_it_even_on_loopback() -> None:
    async with serving(guarded_app("sécret"), LOOPBACK) as address:
        assert await status_of(address, "GET") == 200
        assert await status_of(address, "PUT") == 401
        for credentials in ("Bearer ", "Bearer wrong", "Basic sécret", "Bearer s\udce9cret"):
            with_them = {"Authorization": credentials.encode("utf-8", "replace").decode()}
            assert await status_of(address, "DELETE", with_them) == 401
        assert await status_of(address, "PUT", {"Authorization": "bearer sécret"}) == 200


async def test_without_a_token_only_this_host_itself_may_change() -> None:
    async with serving(guarded_app(None), LOOPBACK) as address:
        assert await status_of(address, "PUT") == 200
        for header in ("X-Forwarded-For", "Forwarded", "Origin"):
            assert await status_of(address, "PUT", {header: "anything"}) == 401


async def test_without_a_token_other_hosts_may_not_change() -> None:
    address = _own_address()
    if address is None:
        pytest.skip("this host has no address but loopback; connect it to any network to run this test")
    async with serving(guarded_app(None), Address(address, 0)) as bound:
        assert await status_of(bound, "GET") == 200
        assert await status_of(bound, "PUT") == 401


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table for the source address
        except OSError:
            return None
        return str(probe.getsockname()[0])


async def test_a_port_in_use_is_named() -> None:
    async with serving(web.Application(), LOOPBACK) as address:
        with pytest.raises(InputError, match=rf"{address}: the port is in use"):
            async with serving(web.Application(), address):
                raise AssertionError("two services on one port")


async def test_a_service_stops_cleanly_on_a_signal(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(
        "from aiohttp import web\n"
        "from imagedist.config import Address\n"
        "from imagedist.service import run_service\n"
        "async def cleaned(app):\n"
        "    print('started', flush=True)\n"
        "    yield\n"
        "    print('cleaned', flush=True)\n"
        "def create():\n"
        "    app = web.Application()\n"
        "    app.cleanup_ctx.append(cleaned)\n"
        "    return app\n"
        "run_service(create, Address('127.0.0.1', 0))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), stdout=subprocess.PIPE, env={"PYTHONPATH": str(Path.cwd())}
    )
    assert process.stdout
    assert await process.stdout.readline() == b"started\n"
    process.terminate()
    assert await process.stdout.read() == b"cleaned\n"
    assert await process.wait() == 0
