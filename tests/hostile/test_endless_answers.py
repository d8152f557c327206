"""Another site, or whoever answers in its place, that does not end."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from imagedist.config import Address
from imagedist.errors import SourceError
from imagedist.service import serving
from imagedist.site.questions import LIMIT_BYTES, Questions


async def test_an_answer_without_end_is_given_up_before_it_fills_the_memory() -> None:
    sent_bytes = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent_bytes
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 20))
            sent_bytes += 1 << 20

    app = web.Application()
    app.router.add_get("/site/v1/tags", endless)
    questions = Questions("seeder of bj", None, None)
    async with serving(app, Address("127.0.0.1", 0)) as address, asyncio.timeout(60):
        with pytest.raises(SourceError, match="an answer of more than 64 MiB"):
            async with questions.ask("GET", f"http://{address}/site/v1/tags", 0, {}) as answer:
                await answer.read()
        await questions.close()
    assert LIMIT_BYTES <= sent_bytes < 2 * LIMIT_BYTES
