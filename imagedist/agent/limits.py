"""The node's caps: what the configuration says or a command said later, held over swarm and HTTP together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from imagedist.agent.protocol import Limit, Limits, LimitsOrder
from imagedist.config import LimitsTable
from imagedist.config.values import parse_rate
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.swarm.session import SwarmSession

_TICK_SECONDS = 0.5
"""How often rates are measured and the download cap is divided anew."""


_BUSY = 0.5
"""Who used so much of half the cap wants that half. Were what he left the other's, noise would lift both: 14 % over."""
_ROOM = 1.2
"""Who used less is left so much of it: he can show that he wants more."""


class NodeLimits:
    """Caps of one node; uploading is the swarm's alone.

    Swarm and HTTP share the download cap: either gets what the other left in the last tick, and half of the cap at
    least. When the one begins beside the other, both together may take half a cap too much for one tick.

    Args:
        table: what the configuration file says.
        http: the cap of blobs that come by HTTP.
        received_bytes: the node's bytes by source; ``proxy`` are those by HTTP, all others the swarm's.
        clock: seconds; injected by tests.
    """

    def __init__(
        self,
        table: LimitsTable,
        session: SwarmSession,
        http: ChangingRate,
        received_bytes: Callable[[], Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._session = session
        self._http = http
        self._received_bytes = received_bytes
        self._clock = clock
        self._upload, self._download = table.upload, table.download
        self._is_changed = {"upload": False, "download": False}
        self._bytes, self._measured_at = self._received(), clock()
        self._http_rate = self._swarm_rate = 0
        self._set: tuple[int | None, int | None] = (table.upload, table.download)

    def status(self) -> Limits:
        """What holds, where it comes from, and what flows."""
        uploading = sum(transfer.status().upload_rate for transfer in self._session.transfers())
        return Limits(
            upload=self._limit("upload", self._upload, uploading),
            download=self._limit("download", self._download, self._average_swarm_rate() + self._http_rate),
        )

    def change(self, order: LimitsOrder) -> None:
        """Does what was ordered, until the agent ends.

        Raises:
            InputError: not a rate.
        """
        upload = self._upload if order.upload is None else parse_rate(order.upload)
        download = self._download if order.download is None else parse_rate(order.download)
        if order.reset:
            upload, download = self._table.upload, self._table.download
        self._is_changed = {
            "upload": not order.reset and (self._is_changed["upload"] or order.upload is not None),
            "download": not order.reset and (self._is_changed["download"] or order.download is not None),
        }
        self._upload, self._download = upload, download
        self._divide()

    async def keep(self) -> None:
        """Measures and divides, for ever."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.tick()

    def tick(self) -> None:
        """Once: measures what came by HTTP and divides the download cap."""
        now, received = self._clock(), self._received()
        seconds = now - self._measured_at
        if seconds > 0:
            http, swarm = (
                round((total - before) / seconds) for total, before in zip(received, self._bytes, strict=True)
            )
            # libtorrent averages over five seconds: too late for a swarm that begins. A tick alone is too short: pieces
            # come in lumps.
            self._http_rate, self._swarm_rate = http, max(swarm, self._average_swarm_rate())
        self._bytes, self._measured_at = received, now
        self._divide()

    def _divide(self) -> None:
        download = self._download
        if download is None:
            self._http.set(None)
            self._set_session(None)
            return
        self._http.set(download - _claimed(self._swarm_rate, download))
        self._set_session(download - _claimed(self._http_rate, download))

    def _set_session(self, download: int | None) -> None:
        if (self._upload, download) != self._set:
            self._set = (self._upload, download)
            self._session.set_limits(self._upload, download)

    def _average_swarm_rate(self) -> int:
        running = (transfer.status() for transfer in self._session.transfers())
        return sum(status.download_rate for status in running if not status.is_complete)

    def _received(self) -> tuple[int, int]:
        """Bytes by HTTP, bytes by swarm."""
        by_source = self._received_bytes()
        http = by_source.get("proxy", 0)
        return http, sum(by_source.values()) - http

    def _limit(self, name: str, limit: int | None, rate: int) -> Limit:
        return Limit(
            bytes_per_second=limit,
            source="command"
            if self._is_changed[name]
            else "file"
            if name in self._table.model_fields_set
            else "default",
            file_bytes_per_second=getattr(self._table, name),
            now_bytes_per_second=rate,
        )


def _claimed(rate: int, cap: int) -> int:
    """How much of the cap the one whose rate it is keeps from the other."""
    half = cap // 2
    return half if rate > half * _BUSY else int(rate * _ROOM)
