"""An agent that starts tidies up what a killed one left."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from imagedist.agent.collecting import keep_collected
from imagedist.overlay.store import OverlayStore


async def test_what_a_killed_process_left_is_gone_soon_after_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = OverlayStore(tmp_path / "storage", durability="none")
    left = tmp_path / "storage" / "overlay" / ("ab" * 32) / "diff"
    left.mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        collecting = asyncio.create_task(keep_collected(store, tmp_path / "ramdisk", every_seconds=0.01))
        while left.parent.name not in caplog.text:  # noqa: ASYNC110 - a log has no event to wait for
            await asyncio.sleep(0.01)
        collecting.cancel()
        await asyncio.wait([collecting])
    assert not left.exists()


async def test_a_store_that_cannot_be_tidied_is_a_warning_not_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = OverlayStore(tmp_path / "storage", durability="none")
    (tmp_path / "storage" / "overlay-layers" / "layers.json").write_text("not JSON")
    collecting = asyncio.create_task(keep_collected(store, tmp_path / "ramdisk", every_seconds=0.01))
    while caplog.text.count("cannot tidy up the image store") < 2:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    collecting.cancel()
    await asyncio.wait([collecting])
