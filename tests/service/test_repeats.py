"""A fault that many nodes meet at once is a line a minute in the log, not a line a request."""

from __future__ import annotations

import logging

import pytest
from aiohttp import ClientSession, web

from imagedist.config import Address
from imagedist.errors import OverloadedError
from imagedist.service import render_site_errors, serving
from imagedist.service.repeats import Repeats


def test_the_same_is_said_once_a_minute_and_then_how_often_it_came() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    assert [repeats.due(f"not asked for another {seconds} s") for seconds in range(100)] == ["", *[None] * 99]
    assert repeats.due("another fault") == ""
    now[0] = 60.0
    assert repeats.due("not asked for another 7 s") == " (99 more like it since the last of these lines)"
    assert repeats.due("not asked for another 7 s") is None


def test_endless_new_messages_take_no_endless_memory() -> None:
    repeats = Repeats()
    words = [f"{chr(97 + one)}{chr(97 + other)} failed" for one in range(20) for other in range(20)]
    assert [repeats.due(word) for word in words] == [""] * 400
    assert repeats.due(words[0]) == ""
    assert repeats.due(words[-1]) is None


async def test_a_site_route_that_fails_for_everybody_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: web.Request) -> web.Response:
        raise OverloadedError("nobody of this test leads the site")

    app = web.Application(middlewares=[render_site_errors])
    app.router.add_get("/site/v1/nodes/{id}", fail)
    with caplog.at_level(logging.WARNING):
        async with serving(app, Address("127.0.0.1", 0)) as address, ClientSession() as client:
            for number in range(5):
                async with client.get(f"http://{address}/site/v1/nodes/n{number}") as answer:
                    assert answer.status == 503
    assert len([line for line in caplog.messages if "nobody of this test" in line]) == 1
