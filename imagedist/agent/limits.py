"""The node's caps: what the configuration says or a command said later, and quiet mode."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Literal

from imagedist.agent.line import default_upload
from imagedist.agent.pressure import Pressure
from imagedist.agent.protocol import ConnectionsLimit, Limit, Limits, LimitsOrder, Quiet
from imagedist.beat import next_beat
from imagedist.config import LimitsTable, QuietTable
from imagedist.config.agent import MIN_CONNECTIONS
from imagedist.config.values import parse_rate, parse_upload
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import InputError
from imagedist.metrics import QUIET
from imagedist.swarm.session import SwarmSession

_LOG = logging.getLogger(__name__)

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

    Quiet mode lowers what the node gives, never what it takes. It begins and ends by a command, which holds until the
    agent ends, or without one by the configuration file and the machine's pressure.

    Args:
        table, quiet: what the configuration file says.
        http: the cap of blobs that come by HTTP.
        received_bytes: the node's bytes by source; ``proxy`` are those by HTTP, all others the swarm's.
        clock: seconds; injected by tests.
        pressure: of the machine; its own, with the thresholds of ``quiet``, if not given.

    Raises:
        ConfigError: thresholds of pressure on a kernel that does not tell it.
    """

    def __init__(
        self,
        table: LimitsTable,
        session: SwarmSession,
        http: ChangingRate,
        received_bytes: Callable[[], Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
        quiet: QuietTable = QuietTable(),
        pressure: Pressure | None = None,
    ) -> None:
        self._table = table
        self._quiet = quiet
        self._session = session
        self._http = http
        self._received_bytes = received_bytes
        self._clock = clock
        self._pressure = pressure or Pressure(quiet.pressures)
        self._file: dict[str, int | None] = {
            "upload": default_upload() if table.upload == "auto" else table.upload,
            "download": table.download,
            "connections": table.connections,
        }
        self._ordered: dict[str, int | None] = {}
        self._quiet_ordered: bool | None = None
        self._lowered: int | None = None
        self._was_quiet = False
        self._bytes, self._measured_at = self._received(), clock()
        self._http_rate = self._swarm_rate = 0
        self._set: tuple[int | None, int | None, int | None] | None = None
        self._divide()

    @property
    def is_quiet(self) -> bool:
        if self._quiet_ordered is not None:
            return self._quiet_ordered
        return self._table.quiet or self._pressure.is_high

    def status(self) -> Limits:
        """What holds, where it comes from, and what flows."""
        running = [transfer.status() for transfer in self._session.transfers()]
        uploading = sum(status.upload_rate for status in running)
        connections = self._said("connections")
        quiet = self._quiet
        return Limits(
            upload=self._limit("upload", uploading),
            download=self._limit("download", self._average_swarm_rate() + self._http_rate),
            connections=ConnectionsLimit(
                at_most=connections or 0,
                source=self._source("connections"),
                file_at_most=self._table.connections,
                now=sum(status.peers for status in running),
            ),
            quiet=Quiet(
                is_quiet=self.is_quiet,
                source="command"
                if self._quiet_ordered is not None
                else "pressure"
                if self._pressure.is_high and not self._table.quiet
                else self._source("quiet"),
                upload_bytes_per_second=_lower(quiet.upload, self._said("upload")),
                connections=_lower(quiet.connections, connections) or quiet.connections,
            ),
        )

    def change(self, order: LimitsOrder) -> None:
        """Does what was ordered, until the agent ends.

        Raises:
            InputError: not a rate, or not a number of connections.
        """
        ordered: dict[str, int | None] = {}
        if order.upload is not None:
            upload = parse_upload(order.upload)
            ordered["upload"] = default_upload() if upload == "auto" else upload
        if order.download is not None:
            ordered["download"] = parse_rate(order.download)
        if order.connections is not None:
            if order.connections < MIN_CONNECTIONS:
                raise InputError(f"bad connections {order.connections}: expected {MIN_CONNECTIONS} or more")
            ordered["connections"] = order.connections
        if order.reset:
            self._ordered, self._quiet_ordered = {}, None
        self._ordered |= ordered
        if order.quiet is not None:
            self._quiet_ordered = order.quiet
        self._divide()

    def lower_download(self, rate: int | None) -> None:
        """While a preheat works, it and all else on the node take this much at most. None: it works no more."""
        self._lowered = rate
        self._divide()

    async def keep(self) -> None:
        """Measures and divides, for ever."""
        while True:
            await next_beat(_TICK_SECONDS)
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
            # come in lumps. Every torrent is asked for it, so only where it matters.
            if swarm == 0 or self._download() is not None:
                swarm = max(swarm, self._average_swarm_rate())
            self._http_rate, self._swarm_rate = http, swarm
        self._bytes, self._measured_at = received, now
        self._pressure.tick(now, is_own=self._http_rate > 0 or self._swarm_rate > 0)
        self._divide()

    def _divide(self) -> None:
        self._tell_quiet()
        download = self._download()
        if download is None:
            self._http.set(None)
            self._set_session(None)
            return
        self._http.set(download - _claimed(self._swarm_rate, download))
        self._set_session(download - _claimed(self._http_rate, download))

    def _download(self) -> int | None:
        """The cap that holds."""
        return _lower(self._lowered, self._said("download"))

    def _set_session(self, download: int | None) -> None:
        upload, connections = self._said("upload"), self._said("connections")
        if self.is_quiet:
            upload, connections = _lower(self._quiet.upload, upload), _lower(self._quiet.connections, connections)
        if (upload, download, connections) != self._set:
            self._set = (upload, download, connections)
            self._session.set_limits(upload, download, connections)

    def _tell_quiet(self) -> None:
        if self.is_quiet != self._was_quiet:
            self._was_quiet = self.is_quiet
            _LOG.info("quiet mode %s", "begins: peers get a trickle" if self.is_quiet else "is over")
        QUIET.set(self.is_quiet)

    def _average_swarm_rate(self) -> int:
        running = (transfer.status() for transfer in self._session.transfers())
        return sum(status.download_rate for status in running if not status.is_complete)

    def _received(self) -> tuple[int, int]:
        """Bytes by HTTP, bytes by swarm."""
        by_source = self._received_bytes()
        http = by_source.get("proxy", 0)
        return http, sum(by_source.values()) - http - by_source.get("disk", 0)

    def _said(self, name: str) -> int | None:
        """What a command or else the file says."""
        return self._ordered[name] if name in self._ordered else self._file[name]

    def _source(self, name: str) -> Literal["default", "file", "command"]:
        if name in self._ordered:
            return "command"
        return "file" if name in self._table.model_fields_set else "default"

    def _limit(self, name: str, rate: int) -> Limit:
        return Limit(
            bytes_per_second=self._said(name),
            source=self._source(name),
            file_bytes_per_second=self._file[name],
            now_bytes_per_second=rate,
        )


def _lower(quiet: int | None, usual: int | None) -> int | None:
    """Neither quiet mode nor a preheat raises a cap."""
    return min((each for each in (quiet, usual) if each is not None), default=None)


def _claimed(rate: int, cap: int) -> int:
    """How much of the cap the one whose rate it is keeps from the other."""
    half = cap // 2
    return half if rate > half * _BUSY else int(rate * _ROOM)
