"""Several processes on one port: they answer, are started again, and stop together. And one alone, by signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from imagedist.config import Address
from tests.service.programs import Program, running
from tests.service.raw import REQUEST, raw
from tests.support.children import children
from tests.support.ports import free_port

PROGRAM = """
import asyncio, logging, os, sys
from aiohttp import web
from imagedist.config import Address
from imagedist.errors import StorageError
from imagedist.service import ServiceOptions, add_health_routes, run_service

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

async def pid(request):
    return web.Response(text=str(os.getpid()))

async def slow(request):
    response = web.StreamResponse()
    response.content_length = 4
    await response.prepare(request)
    await response.write(b"sl")
    print("slow began", flush=True)
    await asyncio.sleep(float(request.query["seconds"]))
    await response.write(b"ow")
    return response

async def hang(request):
    import time
    time.sleep(60)

async def ready():
    return None

async def lifetime(app):
    if os.path.exists(sys.argv[3]):
        raise StorageError("cannot start today")
    yield
    print("closed", flush=True)

def create():
    app = web.Application()
    app.router.add_get("/quick", pid)
    app.router.add_get("/slow", slow)
    app.router.add_get("/hang", hang)
    add_health_routes(app, ready)
    app.cleanup_ctx.append(lifetime)
    return app

run_service(create, Address("127.0.0.1", int(sys.argv[1])), ServiceOptions(drain_seconds=float(sys.argv[4])),
            workers=int(sys.argv[2]))
"""


@asynccontextmanager
async def service(
    directory: Path, workers: int, drain_seconds: float = 20.0, environment: dict[str, str] | None = None
) -> AsyncIterator[tuple[Program, Address]]:
    path = directory / "program.py"
    path.write_text(PROGRAM)
    port = free_port()
    argv = [str(path), str(port), str(workers), str(directory / "broken"), str(drain_seconds)]
    async with running(argv, environment) as program:
        yield program, Address("127.0.0.1", port)


async def pids(address: Address, count: int) -> set[int]:
    """Who answers so many connections."""
    found = set()
    for _ in range(count):
        async with aiohttp.ClientSession() as client, client.get(f"http://{address}/quick") as response:
            found.add(int(await response.text()))
    return found


async def until_refused(address: Address) -> None:
    """Returns when nobody listens any more."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            with contextlib.suppress(ConnectionResetError):  # as a listener closes
                async with raw(address):
                    pass


async def test_all_workers_answer_on_one_port_and_all_stop(tmp_path: Path) -> None:
    async with service(tmp_path, 3) as (program, address):
        await program.hear("3 workers serve")
        assert await pids(address, 60) <= set(children(program.pid))
        assert len(children(program.pid)) == 3
        program.signal(signal.SIGTERM)
        assert await program.end() == 0
        assert program.said.count("closed") == 3


async def test_a_killed_worker_is_started_again_and_nobody_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (program, address):
        await program.hear("2 workers serve")
        before = set(children(program.pid))
        os.kill(min(before), signal.SIGKILL)
        await program.hear("ended by SIGKILL: starting another")
        assert await pids(address, 20)
        async with asyncio.timeout(60):
            while len(after := set(children(program.pid))) < 2:
                await pids(address, 1)
        assert len(after & before) == 1


async def test_workers_finish_their_requests_and_take_no_new_ones(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (program, address):
        await program.hear("2 workers serve")
        async with raw(address) as client:
            await client.send(b"GET /slow?seconds=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            await program.hear("slow began")
            program.signal(signal.SIGTERM)
            await program.hear("closed")  # the other worker has nothing to wait for
            await until_refused(address)  # the busy one has heard it, too
            assert (await client.rest()).endswith(b"slow")
        assert await program.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_second_signal_ends_what_runs(tmp_path: Path, workers: int) -> None:
    async with service(tmp_path, workers) as (program, address):
        await program.hear("workers serve" if workers > 1 else "listening")
        async with raw(address) as client:
            await client.send(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
            await program.hear("slow began")
            program.signal(signal.SIGTERM)
            await until_refused(address)  # two signals that meet before they are heard would be one
            program.signal(signal.SIGTERM)
            assert (await client.rest()).endswith(b"sl")
        assert await program.end() == 0
        assert "cutting 1 requests off" in program.said


async def test_workers_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (program, address):
        await program.hear("2 workers serve")
        program.signal(signal.SIGKILL)
        await program.end()  # both outputs are closed: nobody has them any more
        assert program.said.count("closed") == 2


async def test_workers_that_cannot_start_say_why_and_end_the_service(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    async with service(tmp_path, 2) as (program, _):
        assert await program.end() == 1
        assert "program.py: cannot start today" in program.said


async def test_a_worker_that_cannot_start_again_is_tried_again_while_the_other_serves(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (program, address):
        await program.hear("2 workers serve")
        (tmp_path / "broken").touch()
        os.kill(min(children(program.pid)), signal.SIGKILL)
        await program.hear("ended with exit code 1: starting another", times=2)
        assert await pids(address, 5)
        (tmp_path / "broken").unlink()
        async with asyncio.timeout(60):
            while len(await pids(address, 20)) < 2:
                pass
        program.signal(signal.SIGTERM)
        assert await program.end() == 0


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        yield systemd


async def until_told(systemd: socket.socket, state: str) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while await loop.sock_recv(systemd, 100) != state.encode():
            pass


@pytest.mark.parametrize("workers", [1, 2])
async def test_systemd_hears_of_readiness_life_and_the_end(tmp_path: Path, told: socket.socket, workers: int) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
    async with service(tmp_path, workers, environment=environment) as (program, _):
        await until_told(told, "READY=1")
        await until_told(told, "WATCHDOG=1")
        program.signal(signal.SIGTERM)
        await until_told(told, "STOPPING=1")
        assert await program.end() == 0


async def test_with_a_watchdog_a_worker_that_does_not_answer_is_replaced(tmp_path: Path) -> None:
    async with service(tmp_path, 2, environment={"WATCHDOG_USEC": "2500000"}) as (program, address):
        await program.hear("2 workers serve")
        async with raw(address) as client:
            await client.send(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            await program.hear("does not answer: killing it")
            await program.hear("ended by SIGKILL: starting another")


ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_socket_that_systemd_holds_is_served_and_outlives_the_service(tmp_path: Path, workers: int) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as held:
        address = Address(*held.getsockname()[:2])
        fd = held.fileno()
        argv = ["-c", ACTIVATED, str(fd), str(tmp_path / "program.py"), "1", str(workers), str(tmp_path / "no"), "20"]
        async with running(argv, pass_fds=[fd]) as program:
            await pids(address, 4)
            program.signal(signal.SIGTERM)
            assert await program.end() == 0
        async with raw(address) as early:  # while nobody serves
            await early.send(REQUEST)
            async with running(argv, pass_fds=[fd]):
                assert b"200 OK" in await early.answer()


async def test_no_request_fails_while_a_service_on_systemds_socket_is_restarted(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    answered_by: list[str] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as held:
        url = "http://{}:{}/quick".format(*held.getsockname()[:2])
        fd = held.fileno()
        argv = ["-c", ACTIVATED, str(fd), str(tmp_path / "program.py"), "1", "2", str(tmp_path / "no"), "20"]

        async def keep_asking(client: aiohttp.ClientSession) -> None:
            while True:
                async with client.get(url) as response:
                    assert response.status == 200
                    answered_by.append(await response.text())

        async with aiohttp.ClientSession() as client:
            asking = [asyncio.create_task(keep_asking(client)) for _ in range(8)]
            for _ in range(2):
                async with running(argv, pass_fds=[fd]) as program:
                    await program.hear("2 workers serve")
                    seen = len(answered_by)
                    while len(answered_by) < seen + 200:
                        done, _ = await asyncio.wait(asking, timeout=0.05)
                        assert not done
                    program.signal(signal.SIGTERM)
                    assert await program.end() == 0
            for task in asking:
                task.cancel()
            failures = list(await asyncio.gather(*asking, return_exceptions=True))
    assert {type(failure) for failure in failures} == {asyncio.CancelledError}


async def test_a_port_in_use_is_said_before_any_worker_starts(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (first, address):
        await first.hear("listening")
        argv = [str(tmp_path / "program.py"), str(address.port), "2", str(tmp_path / "no"), "20"]
        async with running(argv) as second:
            assert await second.end() == 1
            assert "the port is in use" in second.said
