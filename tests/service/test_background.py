"""Work beside the requests goes on after a mistake: told, counted, and after a pause that grows."""

from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import REGISTRY

from imagedist.service import beside, kept_up


def failures(work: str) -> float:
    return REGISTRY.get_sample_value("imagedist_background_failures_total", {"work": work}) or 0.0


async def test_what_fails_is_told_counted_and_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    paused: list[float] = []
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 9:
            raise KeyError("a mistake")

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    before = failures("looks")
    with caplog.at_level(logging.ERROR):
        await kept_up(work, "looks", sleep)
    assert (runs, paused) == (9, [1, 2, 4, 8, 16, 32, 60, 60])
    assert failures("looks") - before == 8
    assert "looks failed, and begins anew in 1 s" in caplog.text
    assert "a mistake" in caplog.text


async def test_it_ends_with_its_context() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with beside(work, "waits"):
        await begun.wait()
    assert ended.is_set()
