"""Blob bytes handed to a consumer in a thread, straight from the socket where that can be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import TestServer

from imagedist.errors import IntegrityError, SourceError
from imagedist.oci import bulk, raw_body
from imagedist.oci.bulk import CHUNK_BYTES
from imagedist.oci.client import RegistryClient
from imagedist.oci.digest import Digest
from imagedist.oci.http import Http
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.http_threads import ThreadedClient
from imagedist.oci.raw_body import RawSocketBody
from tests.support import counts
from tests.support.registry import FaultyRegistry

CONTENT = os.urandom(3 * CHUNK_BYTES + 123)
NEVER_SECONDS = 1e6


@pytest.fixture
async def registry() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


class Taken:
    """What a consumer was given, by which threads."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.threads: set[int] = set()

    def __call__(self, chunk: bytes | memoryview) -> None:
        self.content += chunk
        self.threads.add(threading.get_ident())


async def no_nap(seconds: float) -> None:
    pass


@pytest.fixture(params=[AiohttpClient, ThreadedClient])
async def http(request: pytest.FixtureRequest) -> Http:
    """Every test that asks a registry runs with both."""
    client: Http = request.param()
    return client


def client_of(registry: FaultyRegistry, http: Http, stall_seconds: float = NEVER_SECONDS) -> RegistryClient:
    return RegistryClient(registry.url, http=http, sleep=no_nap, stall_seconds=stall_seconds)


async def deliver(
    client: RegistryClient, digest: Digest, taken: Taken, threads: ThreadPoolExecutor, offset: int = 0
) -> None:
    async with client.blob("team/app", digest, offset) as stream:
        await stream.deliver(taken, threads)


async def until_asked(registry: FaultyRegistry, digest: Digest, count: int) -> None:
    while registry.blob_gets[digest] < count:  # noqa: ASYNC110  # nobody tells when
        await asyncio.sleep(0)


@pytest.mark.parametrize("size_bytes", [0, 1, 5000, CHUNK_BYTES, len(CONTENT)])
async def test_bytes_come_in_order_in_a_thread(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, size_bytes: int, http: Http
) -> None:
    digest, taken = registry.add_blob(CONTENT[:size_bytes]), Taken()
    async with client_of(registry, http) as client:
        for _ in range(2):
            await deliver(client, digest, taken, threads)
    assert taken.content == CONTENT[:size_bytes] * 2
    assert threading.get_ident() not in taken.threads


async def test_broken_body_is_resumed_where_it_broke(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, http: Http
) -> None:
    digest, taken = registry.add_blob(CONTENT), Taken()
    registry.cuts = [700_000, 300_000, 7]
    async with client_of(registry, http) as client:
        await deliver(client, digest, taken, threads)
    assert taken.content == CONTENT
    assert registry.blob_gets[digest] == 4


async def test_body_that_keeps_breaking_is_given_up(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, http: Http
) -> None:
    registry.cuts = [100, 0, 0]
    async with client_of(registry, http) as client:
        with pytest.raises(SourceError, match=r"broke off .* at byte 100"):
            await deliver(client, registry.add_blob(CONTENT), Taken(), threads)


async def test_body_that_stands_still_is_asked_for_again(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, http: Http
) -> None:
    digest, taken = registry.add_blob(CONTENT), Taken()
    registry.gate = asyncio.Event()
    async with client_of(registry, http, stall_seconds=0.5) as client:  # the head and half of the body come within that
        delivering = asyncio.create_task(deliver(client, digest, taken, threads))
        await until_asked(registry, digest, 2)
        registry.gate.set()
        await delivering
    assert taken.content == CONTENT


@pytest.mark.parametrize("ignores_ranges", [False, True])
@pytest.mark.parametrize("offset", [1, 2 * CHUNK_BYTES + 5, len(CONTENT) - 1])
async def test_delivery_begins_at_an_offset(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, ignores_ranges: bool, offset: int, http: Http
) -> None:
    registry.ignores_ranges = ignores_ranges
    taken = Taken()
    async with client_of(registry, http) as client:
        await deliver(client, registry.add_blob(CONTENT), taken, threads, offset)
    assert taken.content == CONTENT[offset:]


async def test_delivery_that_is_blocked_by_its_socket_is_cancelled_at_once(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, http: Http
) -> None:
    digest, begun = registry.add_blob(CONTENT), asyncio.Event()
    registry.gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with client_of(registry, http) as client, client.blob("team/app", digest) as stream:
        delivering = asyncio.create_task(
            stream.deliver(lambda _: loop.call_soon_threadsafe(begun.set) and None, threads)
        )
        await begun.wait()
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
        registry.gate.set()


async def test_delivery_that_waits_for_a_thread_is_cancelled_without_one(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, http: Http
) -> None:
    free, taken = threading.Event(), Taken()
    digest = registry.add_blob(CONTENT)
    threads.submit(free.wait)
    async with client_of(registry, http) as client:
        delivering = asyncio.create_task(deliver(client, digest, taken, threads))
        await until_asked(registry, digest, 1)
        for _ in range(100):
            await asyncio.sleep(0)
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
        free.set()
        threads.submit(int).result()
        assert not taken.content


async def test_error_of_the_consumer_is_told_as_it_is(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, http: Http
) -> None:
    def refuse(chunk: bytes | memoryview) -> None:
        raise IntegrityError("not these")

    digest, taken = registry.add_blob(CONTENT), Taken()
    async with client_of(registry, http) as client:
        async with client.blob("team/app", digest) as stream:
            with pytest.raises(IntegrityError, match="not these"):
                await stream.deliver(refuse, threads)
        await deliver(client, digest, taken, threads)
    assert taken.content == CONTENT


async def test_range_that_ends_early_on_an_open_connection_is_resumed_at_once(
    threads: ThreadPoolExecutor, http: Http
) -> None:
    async def some(request: web.Request) -> web.Response:
        start = request.http_range.start
        stop = min(start + 2 * CHUNK_BYTES, len(CONTENT))
        stated = {"Content-Range": f"bytes {start}-{stop - 1}/{len(CONTENT)}"}
        return web.Response(status=206, body=CONTENT[start:stop], headers=stated)

    app, taken = web.Application(), Taken()
    app.router.add_get("/{path:.*}", some)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        async with RegistryClient(url, http=http, sleep=no_nap, stall_seconds=NEVER_SECONDS) as client:
            await deliver(client, Digest.of(CONTENT), taken, threads, 1)
    assert taken.content == CONTENT[1:]


async def test_body_that_arrived_before_it_was_taken_leaves_its_connection_to_others() -> None:
    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=CONTENT[:size_bytes])

    app = web.Application()
    app.router.add_get("/", whole)
    client = AiohttpClient()
    async with TestServer(app) as server:
        # Around the size at which aiohttp's reader is full and pauses.
        for size_bytes in range(2 * CHUNK_BYTES - 1000, 2 * CHUNK_BYTES + 1000, 250):
            response = await client.request("GET", str(server.make_url("/")), {}, None, "r", NEVER_SECONDS)
            while response.content.total_bytes < size_bytes:  # noqa: ASYNC110  # nobody tells when
                await asyncio.sleep(0)
            body = RawSocketBody.take(response, 5)
            if body is not None:
                buffer = memoryview(bytearray(size_bytes + 1))
                assert body.fill(buffer) == size_bytes
                assert buffer[:size_bytes] == CONTENT[:size_bytes]
                body.close()
            else:
                assert await response.read() == CONTENT[:size_bytes]
        await client.close()


class RefillingProtocol(BaseProtocol):
    """aiohttp's, with a parser that kept bytes back while its reader was full."""

    def __init__(self, kept: list[bytes]) -> None:
        super().__init__(asyncio.get_running_loop())
        self.content = aiohttp.StreamReader(self, 10)
        self._kept = kept

    def data_received(self, data: bytes) -> None:
        if self._kept:
            self.content.feed_data(self._kept.pop(0))


async def test_bytes_that_aiohttp_kept_back_while_its_reader_was_full_are_taken_too() -> None:
    protocol = RefillingProtocol([b"second", b"third"])
    protocol.content.feed_data(b"first")
    assert raw_body.emptied(protocol.content) == b"firstsecondthird"


async def test_stopping_a_body_that_has_arrived_does_not_cut_the_connection_that_others_use_now() -> None:
    async def whole(request: web.Request) -> web.Response:
        assert request.transport is not None
        port = str(request.transport.get_extra_info("peername")[1])
        return web.Response(body=CONTENT[: 2 * CHUNK_BYTES + 1], headers={"X-Port": port})

    app = web.Application()
    app.router.add_get("/", whole)
    client, ports = AiohttpClient(), set()
    async with TestServer(app) as server:
        for _ in range(3):
            response = await client.request("GET", str(server.make_url("/")), {}, None, "r", NEVER_SECONDS)
            while response.content.total_bytes <= 2 * CHUNK_BYTES:  # noqa: ASYNC110  # nobody tells when
                await asyncio.sleep(0)
            body = RawSocketBody.take(response, 5)
            ports.add(response.headers["X-Port"])
            assert body is not None  # the reader was full: the end had not been told
            body.stop()
            assert body.fill(memoryview(bytearray(len(CONTENT)))) == 2 * CHUNK_BYTES + 1
            body.close()
        await client.close()
    assert len(ports) == 1


@pytest.mark.prove
async def test_bodies_taken_at_any_moment_are_whole_while_the_event_loop_is_held_up() -> None:
    """However much of it aiohttp has read by then, its reader full and paused or not."""

    async def whole(request: web.Request) -> web.StreamResponse:
        chance = random.Random(int(request.query["seed"]))
        answer = web.StreamResponse()
        answer.content_length = len(CONTENT)
        await answer.prepare(request)
        sent = 0
        while sent < len(CONTENT):
            step_bytes = chance.choice([1, 65_536, 262_144, chance.randrange(1, 600_000)])
            await answer.write(CONTENT[sent : sent + step_bytes])
            sent += step_bytes
        return answer

    def received(body: RawSocketBody) -> bytes:
        buffer, got = memoryview(bytearray(len(CONTENT))), 0
        while some_bytes := body.fill(buffer[got:]):
            got += some_bytes
        return bytes(buffer[:got])

    app = web.Application()
    app.router.add_get("/", whole)
    client, chance = AiohttpClient(), random.Random(7)
    async with TestServer(app) as server:
        for seed in range(counts.count(40, 3000)):
            url = str(server.make_url("/").with_query(seed=seed))
            response = await client.request("GET", url, {}, None, "r", NEVER_SECONDS)
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            body = RawSocketBody.take(response, NEVER_SECONDS)
            if body is None:
                assert await response.read() == CONTENT
            else:
                assert await asyncio.to_thread(received, body) == CONTENT
                body.close()
            response.close()
        await client.close()


async def test_encrypted_body_is_left_to_aiohttp(tmp_path: Path) -> None:
    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=CONTENT)

    app = web.Application()
    app.router.add_get("/", whole)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=certified(tmp_path))
    async with aiohttp.ClientSession() as session:
        response = await session.get(server.make_url("/"), ssl=False)
        assert response.url.scheme == "https"
        assert RawSocketBody.take(response, 5) is None
        assert await response.read() == CONTENT
    await server.close()


async def test_encrypted_body_is_decrypted_by_the_thread_that_takes_it(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with encrypted(tmp_path) as url, RegistryClient(url, http=ThreadedClient(), sleep=no_nap) as client:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        taken = Taken()
        for _ in range(2):  # by one connection
            await deliver(client, Digest.of(CONTENT), taken, threads)
    assert taken.content == CONTENT * 2
    assert len(taken.threads) == 1


async def test_certificate_of_a_stranger_is_refused(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    async with encrypted(tmp_path) as url, RegistryClient(url, http=ThreadedClient(), sleep=no_nap) as client:
        with pytest.raises(SourceError, match=r"certificate verify failed.*; check its certificate, both clocks"):
            await deliver(client, Digest.of(CONTENT), Taken(), threads)


async def test_handshake_that_stands_still_is_cancelled_at_once(threads: ThreadPoolExecutor) -> None:
    connected, over = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        connected.set()
        await over.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with RegistryClient(url, http=ThreadedClient(), sleep=no_nap) as client:
            delivering = asyncio.create_task(deliver(client, Digest.of(CONTENT), Taken(), threads))
            await connected.wait()
            delivering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await delivering
        over.set()


async def test_connection_that_was_closed_while_idle_is_replaced(threads: ThreadPoolExecutor) -> None:
    async def whole(request: web.Request) -> web.Response:
        peers.append(request.transport)
        return web.Response(body=CONTENT)

    peers: list[asyncio.Transport | None] = []
    app = web.Application()
    app.router.add_get("/{path:.*}", whole)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        async with RegistryClient(url, http=ThreadedClient(), sleep=no_nap) as client:
            taken = Taken()
            for _ in range(2):
                await deliver(client, Digest.of(CONTENT), taken, threads)
            assert peers[0] is peers[1] is not None
            peers[1].abort()
            await deliver(client, Digest.of(CONTENT), taken, threads)
    assert taken.content == CONTENT * 3


@contextlib.asynccontextmanager
async def encrypted(directory: Path) -> AsyncIterator[str]:
    """A registry that has one blob, whatever it is asked for; its URL."""

    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=CONTENT)

    app = web.Application()
    app.router.add_get("/{path:.*}", whole)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=certified(directory))
    try:
        yield f"https://localhost:{server.port}"
    finally:
        await server.close()


def certified(directory: Path) -> ssl.SSLContext:
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    kind += ["-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", *kind, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("way", ["thread", "loop"])
async def test_body_that_only_drips_is_taken_for_broken(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(bulk, "SLOW_SECONDS", 0.1)
    for owner in (bulk, raw_body):
        monkeypatch.setattr(owner, "FILL_SECONDS", 0.02)
    digest, taken = registry.add_blob(CONTENT), Taken()
    registry.drops = 0.01
    async with client_of(registry, AiohttpClient()) as client:
        if way == "thread":
            asked: Awaitable[object] = deliver(client, digest, taken, threads)
        else:
            asked = client.blob_bytes("team/app", digest, len(CONTENT))
        with pytest.raises(SourceError, match="less than 1024 bytes came per second"):
            await asked
        assert 1 < registry.blob_gets[digest] <= bulk.MAX_RESUMES + 1
        registry.drops = None
        await deliver(client, digest, taken, threads, len(taken.content))
    assert taken.content == CONTENT


async def test_slow_reader_is_not_held_against_the_registry(
    registry: FaultyRegistry, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, http: Http
) -> None:
    monkeypatch.setattr(bulk, "SLOW_SECONDS", 0.5)
    content = CONTENT[: 2 * CHUNK_BYTES]
    digest, taken = registry.add_blob(content), bytearray()

    def slowly(chunk: bytes | memoryview) -> None:
        threading.Event().wait(0.6)
        taken.extend(chunk)

    monkeypatch.setattr(bulk, "SLOW_BYTES_PER_SECOND", 1 << 20)
    async with client_of(registry, http) as client:
        async with client.blob("team/app", digest) as stream:
            await stream.deliver(slowly, threads)
    assert bytes(taken) == content
    assert registry.blob_gets[digest] == 1
