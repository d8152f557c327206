"""The agent keeps its store tidy: what killed processes left, layers nobody needs, images beyond the quota."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from imagedist.errors import ImagedistError
from imagedist.overlay.store import OverlayStore
from imagedist.threads import settled

_LOG = logging.getLogger(__name__)

_EVERY_SECONDS = 3600.0


async def keep_collected(store: OverlayStore, ramdisk: Path, every_seconds: float = _EVERY_SECONDS) -> None:
    """Collects now and every hour, until cancelled. Pulls make their own room; this is for what they do not see."""
    while True:
        try:
            collected = await settled(asyncio.to_thread(store.gc, scratch=[ramdisk]))
        except ImagedistError as error:
            _LOG.warning("cannot tidy up the image store: %s", error)
        else:
            for one in collected:
                _LOG.info("removed %s %s (%d bytes)", one.kind, one.name, one.size_bytes)
        await asyncio.sleep(every_seconds)
