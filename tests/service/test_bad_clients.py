"""Clients that take their time, say too much, or are too many: raw sockets against the shared service."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiohttp
import pytest

from imagedist.config import Address
from imagedist.metrics import CONNECTIONS_CUT
from imagedist.service import Limits, serving
from imagedist.service.connection import Connections
from tests.service.raw import REQUEST, Raw, Slow, raw
from tests.support.waiting import until

LOOPBACK = Address("127.0.0.1", 0)
HASTY = Limits(
    head_seconds=0.3, idle_seconds=0.6, stall_seconds=0.5, linger_seconds=0.2, body_seconds=0.2, sweep_seconds=0.05
)


async def drip(client: Raw, data: bytes, seconds: float = 0.05) -> None:
    """One byte at a time, until the other side has had enough."""
    for byte in data:
        try:
            await client.send(bytes([byte]))
        except ConnectionError:
            return
        if client.reader.at_eof():
            return
        await asyncio.sleep(seconds)
    raise AssertionError("the server took it all")


async def test_a_connection_that_never_sends_is_ended() -> None:
    async with serving(Slow().app, LOOPBACK, limits=HASTY) as address, raw(address) as client:
        assert await client.rest() == b""


async def test_a_head_that_drips_is_ended() -> None:
    async with serving(Slow().app, LOOPBACK, limits=HASTY) as address, raw(address) as client:
        await drip(client, REQUEST * 3)
        assert await client.rest() == b""


async def test_the_second_head_on_a_connection_must_not_drip_either() -> None:
    async with serving(Slow().app, LOOPBACK, limits=HASTY) as address, raw(address) as client:
        await client.send(REQUEST)
        assert b"200 OK" in await client.answer()
        await drip(client, REQUEST * 3)


async def test_a_connection_is_kept_between_requests_for_its_time() -> None:
    limits = replace(HASTY, idle_seconds=2.5)
    async with serving(Slow().app, LOOPBACK, limits=limits) as address, raw(address) as client:
        for _ in range(3):  # longer in all than any head may take
            await client.send(REQUEST)
            assert b"200 OK" in await client.answer()
            await asyncio.sleep(0.4)
        assert await client.rest() == b""


async def test_a_site_body_that_drips_is_answered_408() -> None:
    async with serving(Slow().app, LOOPBACK, limits=HASTY) as address, raw(address) as client:
        await client.send(b"PUT /site/v1/thing HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = await client.answer()
        assert b"408" in answer.split(b"\r\n")[0]
        assert b"did not arrive within" in answer


async def test_a_body_that_cannot_be_decoded_is_no_exception_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Slow().app, LOOPBACK, limits=HASTY) as address, raw(address) as client:
        await client.send(
            b"GET /quick HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\nno gzip"
        )
        assert (await client.rest()).split()[1] in (b"200", b"400")  # unread, or read by the handler
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_body_that_nobody_wants_is_read_for_a_moment_only() -> None:
    async with serving(Slow().app, LOOPBACK, limits=HASTY) as address, raw(address) as client:
        await client.send(b"GET /unknown HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert b"404" in (await client.rest()).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /quick HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
        b"GET /quick HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(200)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),  # a TLS client at a plain port
        b"GET /quick HTTP/9.9\r\n\r\n",
    ],
    ids=["line", "field", "fields", "tls", "version"],
)
async def test_a_head_that_is_too_large_or_none_is_answered_400_and_ended(head: bytes) -> None:
    async with serving(Slow().app, LOOPBACK) as address, raw(address) as client:
        await client.send(head)
        assert (await client.rest()).startswith(b"HTTP/1.0 400") or (await client.rest()) == b""


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    cut = CONNECTIONS_CUT.labels(cause="answer not read")
    before = cut._value.get()
    async with serving(Slow().app, LOOPBACK, limits=HASTY) as address, raw(address) as client:
        await client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: cut._value.get() > before)
        received = len(await client.rest())
        assert received < 64 << 20


async def test_past_the_last_connection_the_longest_idle_makes_room() -> None:
    limits = Limits(connections=2)
    async with serving(Slow().app, LOOPBACK, limits=limits) as address:
        async with raw(address) as first, raw(address) as second:
            for client in (first, second):
                await client.send(REQUEST)
                assert b"200 OK" in await client.answer()
            await asyncio.sleep(1.1)
            await second.send(REQUEST)
            await second.answer()
            async with raw(address) as third:
                await third.send(REQUEST)
                assert b"200 OK" in await third.answer()
                assert await first.rest() == b""


async def test_past_the_last_busy_connection_clients_wait_in_the_kernels_queue() -> None:
    slow = Slow()
    async with serving(slow.app, LOOPBACK, limits=Limits(connections=1)) as address:
        async with raw(address) as first, raw(address) as second:
            await first.send(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await slow.entered.wait()
            await second.send(REQUEST)
            with pytest.raises(TimeoutError):
                await second.answer(seconds=0.3)
            slow.released.set()
            assert b"quick" in await second.answer()


async def test_a_stop_lets_requests_finish_and_says_so_on_kept_connections(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    context = serving(slow.app, LOOPBACK, drain_seconds=10)
    address = await context.__aenter__()
    async with raw(address) as running, raw(address) as kept:
        await kept.send(REQUEST)
        assert b"Connection: close" not in await kept.answer()
        await running.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await slow.entered.wait()
        leaving = asyncio.create_task(context.__aexit__(None, None, None))
        await asyncio.sleep(0)
        await kept.send(REQUEST.replace(b"/quick", b"/readyz"))
        answer = await kept.answer()
        assert answer.startswith(b"HTTP/1.1 503")
        assert answer.endswith(b"stopping\n")
        assert b"Connection: close" in answer
        assert await kept.rest() == b""
        async with aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.ClientConnectorError):
                await client.get(f"http://{address}/quick")
        slow.released.set()
        assert (await running.rest()).endswith(b"slow")
        await leaving
    assert slow.ended == ["whole"]
    assert "cutting" not in caplog.text


@pytest.mark.parametrize("by_signal", [True, False], ids=["second signal", "time"])
async def test_a_stop_ends_what_does_not_finish(by_signal: bool) -> None:
    slow = Slow()
    cut = asyncio.Event()
    context = serving(slow.app, LOOPBACK, drain_seconds=60 if by_signal else 0.1, cut=cut)
    address = await context.__aenter__()
    async with raw(address) as running:
        await running.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await slow.entered.wait()
        if by_signal:
            cut.set()
        async with asyncio.timeout(60):  # by far not slow's end
            await context.__aexit__(None, None, None)
        assert (await running.rest()).endswith(b"sl")
    assert slow.ended == ["cut"]


def test_connections_start_with_nobody_to_make_room() -> None:
    assert not Connections(Limits(), lambda: 0.0).close_longest_idle(0.0)
