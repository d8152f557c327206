"""A site as ``NodeBlobs`` asks it, answering from memory, with faults on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Self

from imagedist.distribution.backend import Target
from imagedist.errors import NotFoundError, SourceError
from imagedist.oci.bulk import Consume
from imagedist.oci.digest import Digest
from imagedist.site import Arriving, FoundTorrent, SmallBlob
from imagedist.site.scrape import Counts
from imagedist.site.web_seeds import WebSeed

WEB_SEED = "http://proxy/blob"


class MemorySite:
    """Answers with what ``answers`` says, one after the other; the last one stands.

    Attributes:
        served: what it sends by HTTP, by digest.
        cut: how many bytes of a body it sends before it breaks off, if at all.
        gate: bodies pause in the middle, or at ``pause_at``, until it is set.
        asked: set when a body was asked for.
        leechers, seeds: what the tracker says; the site's seeder is one of these.
        small: what it answers at once instead.
        refusal: raised to who asks for a blob's size.
        heads, scrapes: how often that was asked, and the tracker.
    """

    def __init__(self, answers: Sequence[bytes | Arriving | FoundTorrent | Exception] = ()) -> None:
        self.answers = list(answers)
        self.served: dict[Digest, bytes] = {}
        self.cut: int | None = None
        self.pause_at: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.leechers: int | Exception = 0
        self.seeds = 1
        self.small: bytes | None = None
        self.refusal: Exception | None = None
        self.heads = 0
        self.scrapes = 0

    async def way(self, target: Target, digest: Digest) -> FoundTorrent | Arriving | SmallBlob:
        if self.small is not None:
            return SmallBlob(self.small)
        return await self.torrent(target, digest, 0)

    async def torrent(
        self, target: Target, digest: Digest, wait_seconds: float, *, is_streaming: bool = False
    ) -> FoundTorrent | Arriving:
        await asyncio.sleep(0)
        if not self.answers:
            raise NotFoundError(f"nobody has {digest}")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return FoundTorrent(answer) if isinstance(answer, bytes) else answer

    @property
    def seeders(self) -> MemorySite:
        return self

    async def scrape(self, infohash: bytes) -> Counts:
        await asyncio.sleep(0)
        self.scrapes += 1
        if isinstance(self.leechers, Exception):
            raise self.leechers
        return Counts(self.seeds, self.leechers)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        self.heads += 1
        if self.refusal is not None:
            raise self.refusal
        return len(self.served[digest])

    async def deliver(
        self, target: Target, digest: Digest, size_bytes: int, offset: int, consume: Consume, threads: Executor
    ) -> None:
        self.asked.set()
        content = self.served[digest]
        end = len(content) if self.cut is None else self.cut
        loop = asyncio.get_running_loop()
        pause = self.pause_at or end // 2
        await loop.run_in_executor(threads, consume, content[offset:pause])
        await self.gate.wait()
        await loop.run_in_executor(threads, consume, content[max(offset, pause) : end])
        if self.cut is not None:
            raise SourceError("the proxy broke off")

    @property
    def web_seeds(self) -> Self:
        return self

    async def of(self, target: Target, digest: Digest, *, is_private: bool) -> WebSeed | None:
        return None if is_private else WebSeed(WEB_SEED)
