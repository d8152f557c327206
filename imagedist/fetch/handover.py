"""From HTTP into the swarm, in the middle of a blob: what came is given to the torrent, and its readers do not notice.

A node that streams a blob by HTTP takes a whole copy from the site. As soon as others want the same blob it goes on by
the swarm instead, where it also gives. HTTP goes on until the swarm has brought a first piece, so nothing stands still.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from imagedist.errors import ImagedistError, SourceError
from imagedist.fetch.seeding import Seeding
from imagedist.oci.digest import Digest
from imagedist.site.scrape import Counts
from imagedist.store.arrival import Arrival
from imagedist.swarm.arrival import DISK
from imagedist.swarm.expected import expect_torrent
from imagedist.swarm.session import Transfer

_LOG = logging.getLogger(__name__)

_OTHERS = 2
"""So many others want the blob before it is worth it: two nodes get it from the site as fast as one does."""
_LINGER_SECONDS = 1.0
"""A stream that is over before is not looked at: most are, where links are fast."""
_TICK_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 4.0
_STALLED_SECONDS = 3.0
_NEARLY_PART = 10
_NEARLY_SECONDS = 2.0
_LONG_SECONDS = 10.0
_GIVEN_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Args:
        others: so many other nodes want the blob before it goes on by the swarm.
        linger: seconds that a stream lasts before anybody looks.
        tick: seconds between the first two looks.
        stalled: HTTP has brought nothing for so many seconds: then by the swarm, whoever is in it.
        nearly: a stream that will be over in so many seconds goes on, and one that has nine tenths.
        long: one that will last longer than so many seconds goes on by the swarm when other nodes have the blob.
    """

    others: int = _OTHERS
    linger: float = _LINGER_SECONDS
    tick: float = _TICK_SECONDS
    nearly: float = _NEARLY_SECONDS
    stalled: float = _STALLED_SECONDS
    long: float = _LONG_SECONDS


class Handover:
    """One stream's.

    Args:
        find_torrent: waits until the site has it; None: it will not.
        scrape: asks a tracker how many are in the swarm of an infohash.

    Attributes:
        torrent: once it is known.
        has_joined: the session has the torrent, or is about to, whatever became of this.
    """

    def __init__(
        self,
        digest: Digest,
        arrival: Arrival,
        seeding: Seeding,
        pace: Pace,
        find_torrent: Callable[[], Awaitable[bytes | None]],
        scrape: Callable[[bytes], Awaitable[Counts]],
    ) -> None:
        self._digest = digest
        self._arrival = arrival
        self._seeding = seeding
        self._pace = pace
        self._find_torrent = find_torrent
        self._scrape = scrape
        self._loop = asyncio.get_running_loop()
        self._begun_at, self._found_bytes = self._loop.time(), arrival.present_bytes
        self._seen_bytes, self._moved_at = self._found_bytes, self._begun_at
        self._feeding: asyncio.Task[None] | None = None
        self.torrent: bytes | None = None
        self.has_joined = False

    async def run(self) -> bool:
        """Returns when the swarm brings pieces, so that HTTP may end; or False: the stream goes on to its end."""
        try:
            return await self._run()
        except ImagedistError as error:
            _LOG.info("going on by HTTP with %s: %s", self._digest, error)
            return False

    async def _run(self) -> bool:
        pace = self._pace
        await asyncio.sleep(pace.linger)
        self.torrent = torrent = await self._find_torrent()
        if torrent is None:
            return False
        infohash = (await asyncio.to_thread(expect_torrent, torrent, self._digest)).short_infohash
        pause_seconds = pace.tick
        while not self._is_stalled():
            if self._is_nearly_done():
                return False
            counts = await self._counts(infohash)
            if counts.leechers >= pace.others or (counts.seeds > 1 and self._left_seconds() > pace.long):
                break
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        self.has_joined = True
        transfer = await self._seeding.join(self._digest, torrent, unannounced=True)
        caught_up = asyncio.Event()
        self._feeding = asyncio.create_task(self._feed(transfer, caught_up))
        await caught_up.wait()
        await self._seeding.join(self._digest, torrent)
        while not _from_swarm(transfer):
            await asyncio.sleep(pace.tick)
            if not self._is_stalled() and self._is_nearly_done():
                return False
        return True

    async def _counts(self, infohash: bytes) -> Counts:
        try:
            return await self._scrape(infohash)
        except SourceError:
            return Counts()  # no tracker answers now

    async def end(self) -> None:
        """Stops what is under way. What was given stays with the transfer."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)

    def _is_stalled(self) -> bool:
        """HTTP has brought nothing for a while, as far as it was looked at: then the swarm is better, with whoever."""
        seen, now = self._arrival.present_bytes, self._loop.time()
        if seen != self._seen_bytes:
            self._seen_bytes, self._moved_at = seen, now
        return now - self._moved_at >= self._pace.stalled and self._arrival.window is None

    def _is_nearly_done(self) -> bool:
        arrival = self._arrival
        if arrival.size_bytes is None or arrival.window is not None:
            return arrival.window is not None  # nothing of it is stored: there is nothing to give
        missing_bytes = arrival.size_bytes - arrival.present_bytes
        return missing_bytes <= arrival.size_bytes / _NEARLY_PART or self._left_seconds() <= self._pace.nearly

    def _left_seconds(self) -> float:
        """Until the end, at the rate that HTTP had so far."""
        arrival, came_bytes = self._arrival, self._arrival.present_bytes - self._found_bytes
        if arrival.size_bytes is None or not came_bytes:
            return math.inf
        return (arrival.size_bytes - arrival.present_bytes) * (self._loop.time() - self._begun_at) / came_bytes

    async def _feed(self, transfer: Transfer, caught_up: asyncio.Event) -> None:
        """Gives every piece that has come, and goes on with those that come."""
        giving: set[asyncio.Task[bool]] = set()
        try:
            blob = await self._arrival.open()
            try:
                for index, start in enumerate(range(0, transfer.size_bytes, transfer.piece_length)):
                    if self._arrival.window is not None:
                        break  # no room any more: its readers go in step, and we would hold them up
                    end = min(start + transfer.piece_length, transfer.size_bytes)
                    if end > self._arrival.present_bytes:
                        await _settle(giving, 0)
                        caught_up.set()
                    piece = b""
                    while start + len(piece) < end:
                        piece += await blob.read(start + len(piece), end - start - len(piece))
                    giving.add(asyncio.create_task(transfer.give(index, piece)))
                    await _settle(giving, _GIVEN_AT_ONCE - 1)
                await _settle(giving, 0)
            finally:
                await blob.close()
        except ImagedistError:
            pass  # the stream was stopped or broke off, or the transfer is gone
        finally:
            for task in giving:
                task.cancel()
            await asyncio.gather(*giving, return_exceptions=True)
            caught_up.set()


def _from_swarm(transfer: Transfer) -> int:
    return sum(count for source, count in transfer.status().received_bytes.items() if source != DISK)


async def _settle(giving: set[asyncio.Task[bool]], most: int) -> None:
    """Waits until no more than ``most`` are under way. Raises what one of them raised."""
    while len(giving) > most:
        done, _ = await asyncio.wait(giving, return_when=asyncio.FIRST_COMPLETED)
        giving -= done
        for task in done:
            task.result()
