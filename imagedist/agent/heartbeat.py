"""The node's heartbeat: that it lives, what it is, how full its disks are, what it has."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path

from imagedist import __version__
from imagedist.config import AgentConfig
from imagedist.errors import ImagedistError, storage_error
from imagedist.nodes import MAX_NAME_LENGTH, MAX_NAMES, Disk, Heartbeat
from imagedist.overlay.store import OverlayStore
from imagedist.site.seeders import Seeders
from imagedist.store.blobs import BlobStore
from imagedist.threads import settled

_LOG = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
_COUNT_SECONDS = 60.0
"""What is cached and unpacked is counted by reading directories: now and then."""
_VERSIONS = {"kernel": platform.release(), "python": platform.python_version(), "machine": platform.machine()}


class Vitals:
    """What a heartbeat says. Blocking.

    Args:
        config: with the BitTorrent port that is in use.
        former_id: what the node was called by default before; empty: nothing else.
        clock: monotonic seconds; injected by tests.
    """

    def __init__(
        self,
        config: AgentConfig,
        blobs: BlobStore,
        images: OverlayStore,
        former_id: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._blobs = blobs
        self._images = images
        self._former_id = former_id
        self._clock = clock
        self._counted_at = float("-inf")
        self._counted = Heartbeat()
        self._storage_bytes = 0

    def heartbeat(self) -> Heartbeat:
        """Raises StorageError: a store cannot be read."""
        table, storage = self._config.agent, self._config.storage
        if self._clock() - self._counted_at >= _COUNT_SECONDS:
            self._count()
            self._counted_at = self._clock()
        blobs = disk(table.node_blobs, self._blobs.used_bytes, int(table.node_blobs_quota))
        layers = disk(storage.root, self._storage_bytes, storage.quota)
        return self._counted.model_copy(update={"disks": {"blobs": blobs, "storage": layers}})

    def _count(self) -> None:
        images = self._images.images()
        names = [name for image in images for name in image.names]
        self._storage_bytes = self._images.used_bytes()
        self._counted = Heartbeat(
            version=__version__,
            former_id=self._former_id,
            versions=_VERSIONS,
            labels=self._config.agent.labels,
            peer_port=self._config.agent.bittorrent.port,
            cached_blobs=self._blobs.count(),
            unpacked_images=len(images),
            image_names=tuple(name for name in sorted(names) if len(name) <= MAX_NAME_LENGTH)[:MAX_NAMES],
        )


def disk(path: Path, used_bytes: int = 0, quota_bytes: int | None = None) -> Disk:
    """The file system of a directory. Raises StorageError."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise storage_error(f"look at the file system of {path}", error) from error
    return Disk(
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        used_bytes=max(used_bytes, 0),
        quota_bytes=quota_bytes,
    )


async def keep_beating(
    seeders: Seeders, vitals: Vitals, every_seconds: float, pause_seconds: float = _PAUSE_SECONDS
) -> None:
    """Tells the site that this node lives, until cancelled. A site that does not listen is not the node's trouble, but
    is said once.

    Args:
        pause_seconds: until the first new try after one that failed; twice as long after each, at most a beat.
    """
    said = ""
    pause = pause_seconds
    while True:
        try:
            await seeders.heartbeat(await settled(asyncio.to_thread(vitals.heartbeat)))
        except ImagedistError as error:
            if str(error) != said:
                _LOG.warning("the site does not know that this node lives: %s", error)
            said = str(error)
            await asyncio.sleep(min(pause, every_seconds) * random.uniform(0.5, 1.0))
            pause *= 2 if pause < every_seconds else 1
        else:
            said, pause = "", pause_seconds
            await asyncio.sleep(every_seconds)
