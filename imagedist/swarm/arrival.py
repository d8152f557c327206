"""Which pieces of one transfer are here, from whom they came, and who waits for them. Shared by both sessions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from itertools import islice

from imagedist.errors import ImagedistError, InputError
from imagedist.swarm.torrent import BLOCK_BYTES, TorrentFacts

SOURCES = ("peer", "seeder", "webseed")
DISK = "disk"
"""What an earlier process had left, verified again; named only if there was any."""


class Arrival:
    """The state of one download; every method belongs to the event loop's thread.

    Bytes by source count verified pieces only, block by block, so that at completion they add up to what was
    downloaded, exactly: blocks of a piece that failed its hash, or came twice, are not counted.
    """

    def __init__(self, facts: TorrentFacts) -> None:
        self._facts = facts
        self._has = bytearray(facts.piece_count)
        self._blocks: dict[int, dict[int, str]] = {}
        self._received = Counter(dict.fromkeys(SOURCES, 0))
        self._piece_waiters: dict[int, set[asyncio.Future[None]]] = {}
        self._completion_waiters: set[asyncio.Future[None]] = set()
        self.present_bytes = 0
        self.is_complete = False
        self.failure: ImagedistError | None = None

    def __repr__(self) -> str:
        state = "failed" if self.failure else "complete" if self.is_complete else "arriving"
        return f"<Arrival {self._facts.digest.short} {state} {self.present_bytes}/{self._facts.size_bytes}>"

    @property
    def received_bytes(self) -> Mapping[str, int]:
        return dict(self._received)

    def has_piece(self, index: int) -> bool:
        return bool(self._has[index])

    def drop_blocks(self, piece: int) -> None:
        """The piece came another way, whole."""
        self._blocks.pop(piece, None)

    def add_block(self, piece: int, block: int, source: str) -> None:
        """A block came; after a failed hash it comes again, and the last source counts."""
        self._blocks.setdefault(piece, {})[block] = source

    def add_piece(self, index: int, *, found: bool = False) -> None:
        """The piece's own hash matched. One that was given or seeded has no blocks, so no source gets it.

        Args:
            found: on disk, when the torrent was added.
        """
        if self._has[index]:
            return
        self._has[index] = 1
        size_bytes = self._facts.piece_size(index)
        self.present_bytes += size_bytes
        blocks = self._blocks.pop(index, {})
        for block, source in blocks.items():
            self._received[source] += min(BLOCK_BYTES, size_bytes - block * BLOCK_BYTES)
        if found and not blocks:
            self._received[DISK] += size_bytes
        for waiter in self._piece_waiters.pop(index, ()):
            _wake(waiter, None)

    def complete(self) -> None:
        """Every piece is verified and flushed. Not after a failure: what was verified may never have been kept."""
        if self.failure:
            return
        for index in range(self._facts.piece_count):
            self.add_piece(index)
        self.is_complete = True
        for waiter in self._completion_waiters:
            _wake(waiter, None)

    def fail(self, failure: ImagedistError) -> None:
        """Ends every wait, now and later. The first failure stands."""
        self.failure = self.failure or failure
        self.is_complete = False
        for waiter in self._completion_waiters.union(*self._piece_waiters.values()):
            _wake(waiter, self.failure)

    async def wait_piece(self, index: int) -> None:
        """Returns when the piece is verified.

        Raises:
            InputError: there is no such piece. ImagedistError: whatever ``fail`` was given.
        """
        if not 0 <= index < len(self._has):
            raise InputError(f"no piece {index} in {self._facts.digest}: it has {len(self._has)}")
        if self.failure:
            raise self.failure
        if not self._has[index]:
            waiters = self._piece_waiters.setdefault(index, set())
            await _wait(waiters)
            if not waiters:
                self._piece_waiters.pop(index, None)

    def next_wanted(self, count: int) -> tuple[int, ...]:
        """The first ``count`` missing pieces from the first one on that somebody waits for; none if nobody waits."""
        if not self._piece_waiters:
            return ()
        missing = (index for index in range(min(self._piece_waiters), len(self._has)) if not self._has[index])
        return tuple(islice(missing, count))

    async def wait_complete(self) -> None:
        """Returns when ``complete`` was called. Raises whatever ``fail`` was given."""
        if self.failure:
            raise self.failure
        if not self.is_complete:
            await _wait(self._completion_waiters)


async def _wait(waiters: set[asyncio.Future[None]]) -> None:
    # One future per waiter: a cancelled waiter disturbs no other, and no failure goes unretrieved.
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.add(waiter)
    try:
        await waiter
    finally:
        waiters.discard(waiter)


def _wake(waiter: asyncio.Future[None], failure: ImagedistError | None) -> None:
    if waiter.done():
        return
    if failure is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(failure)
