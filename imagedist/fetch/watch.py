"""How long a node trusts in its swarm: when the proxy's web seed comes to help, and when the swarm is given up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from imagedist.beat import next_beat
from imagedist.config import AgentTable
from imagedist.errors import SourceError
from imagedist.fetch.received import Received
from imagedist.fetch.web_seed import Ask, HelpingWebSeed
from imagedist.swarm.session import Transfer, TransferStatus

_SLOW_TIMES = 4
_COMING_SECONDS = 1.5
"""Without a byte nothing comes any more: a session tells twice a second what came."""


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds.

    Args:
        stalled: no verified piece for this long: take the proxy's web seed as well. While bytes come that are no
            whole piece yet, or other blobs come to this node, four times as long: on a slow link a first piece takes
            its time, and a link that others fill is no quicker for a web seed.
        alone: the same when no tracker knows a single peer, or none answers: on a LAN tracker and handshake take 0.2 s
            (20 MB in 0.21-0.28 s). As long as ``stalled`` while other blobs come.
        hold: a web seed stays on at least this long, and until peers brought as much as it did meanwhile.
        give_up: not a byte for this long, web seed and all: go on by HTTP, where every proxy is tried.
        tick: how often to look.
    """

    stalled: float = 3.0
    alone: float = 1.0
    hold: float = 5.0
    give_up: float = 30.0
    tick: float = 0.5

    @classmethod
    def of(cls, table: AgentTable) -> Self:
        return cls(
            table.swarm_stalled.total_seconds(),
            table.swarm_alone.total_seconds(),
            table.swarm_helped.total_seconds(),
            table.swarm_given_up.total_seconds(),
        )

    def with_nothing_from(self, status: TransferStatus, *, is_coming: bool, is_busy: bool = False) -> float:
        """How long a transfer in this state may be without a verified piece.

        64 nodes that wanted two blobs at once, on 2 cores: 62 of them had no peer of the second one after a second,
        all took the web seed, and it kept the site's line from trackers and seeder for eight seconds more.

        Args:
            is_coming: whether bytes come that are no whole piece yet.
            is_busy: whether other blobs come to this node.
        """
        if status.is_alone:
            return self.stalled if is_busy else self.alone
        return _SLOW_TIMES * self.stalled if is_busy or (is_coming and status.peers) else self.stalled


class Watch:
    """
    Args:
        received: where bytes are counted by source.
        ask: where the blob's web seed is.
    """

    def __init__(self, patience: Patience, received: Received, ask: Ask) -> None:
        self._patience = patience
        self._received = received
        self._ask = ask

    async def completion(self, transfer: Transfer) -> None:
        """Waits for it under watch. Raises as ``Transfer.wait_complete``, and SourceError when nothing moves."""
        completing = asyncio.create_task(transfer.wait_complete())
        watching = asyncio.create_task(self._watch(transfer))
        try:
            await asyncio.wait([completing, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (completing, watching):
                task.cancel()
            await asyncio.wait([completing, watching])
        if completing.cancelled():
            await watching
        else:
            await completing

    async def _watch(self, transfer: Transfer) -> None:
        """Counts bytes by source; puts the web seed on when alone or stalled, and takes it off again.

        Raises:
            SourceError: nothing moves, web seed and all, or there is none to help.
        """
        loop, patience = asyncio.get_running_loop(), self._patience
        counted: Counter[str] = Counter()
        present, moved_at = 0, loop.time()
        web_seed = HelpingWebSeed(transfer, self._ask)
        downloaded, came_at = 0, moved_at
        elsewhere, busy_at = self._received.total_bytes, float("-inf")
        web: _Help | None = None
        try:
            while True:
                await next_beat(patience.tick)
                status, now = transfer.status(), loop.time()
                self._received.count_new(status.received_bytes, counted)
                if status.present_bytes > present or status.present_bytes == status.size_bytes:
                    moved_at = now  # all here: only the flush is missing
                if status.downloaded_bytes > downloaded:
                    came_at = now
                present, downloaded = status.present_bytes, status.downloaded_bytes
                is_coming = now - came_at < _COMING_SECONDS
                of_others = self._received.total_bytes - counted.total()
                if of_others > elsewhere:
                    elsewhere, busy_at = of_others, now
                is_busy = now - busy_at < _COMING_SECONDS
                if web is not None:
                    web_seed.help(now)
                if web is None:
                    if now - moved_at >= patience.with_nothing_from(status, is_coming=is_coming, is_busy=is_busy):
                        web = _Help(now, counted)
                        web_seed.help(now)
                elif now - web.since >= patience.hold:
                    if web.is_needless(counted):
                        web, moved_at = None, now
                        web_seed.end()
                    elif now - moved_at >= patience.give_up and not is_coming:
                        raise SourceError(f"no byte of {transfer.digest} came for {patience.give_up:g} s")
                    else:
                        web = _Help(now, counted)
        finally:
            web_seed.end()
            self._received.count_new(transfer.status().received_bytes, counted)


class _Help:
    """A while in which the web seed is on, and what came before it."""

    def __init__(self, since: float, counted: Mapping[str, int]) -> None:
        self.since = since
        self._before = Counter(counted)

    def is_needless(self, counted: Mapping[str, int]) -> bool:
        """Peers brought something, and no less than the web seed."""
        came = Counter(counted)
        came.subtract(self._before)
        by_peers = came["peer"] + came["seeder"]
        return by_peers > 0 and by_peers >= came["webseed"]
