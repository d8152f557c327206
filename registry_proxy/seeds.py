"""Tells the site's seeders what to seed and what to let go (the only owner of aiohttp's client here)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from imagedist.errors import InputError, StorageError
from imagedist.locking import LockFile
from imagedist.oci.digest import Digest
from imagedist.oci.retries import TransientError, retrying
from imagedist.oci.tls import Tls
from imagedist.service import kept_up
from registry_proxy.replicas import ranked

_LOG = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
_AT_ONCE = 16
_MAX_QUEUED = 4096
_FIRST_TRY_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""How long a seeder that did not answer is not asked to let go: making room asks for blob after blob."""
LOOK_SECONDS = 5.0
_LOOK_TIMEOUT = aiohttp.ClientTimeout(total=3.0)
_LOOKS = 2
"""A seeder that did not answer so many looks in a row is down."""


class Seeds:
    """``PUT`` and ``DELETE /site/v1/seeds/{digest}`` at the site's seeders.

    Each blob is seeded by ``replicas`` of them (``replicas.py``); the others know its torrent, for their trackers. When
    one goes or comes back, the blobs it has part in are told anew. A seeder that is down is told again a bounded number
    of times; after its restart it reads the torrents folder, and when it answers again without one it is told what it
    has missed.

    Args:
        torrents: the folder of the site's torrents, ``<hex>.torrent``.
        replicas: how many seed each blob.
        tls: for https URLs, if the system's authorities are not enough.
    """

    def __init__(
        self,
        seeders: Sequence[str],
        token: str | None,
        torrents: Path,
        replicas: int = 2,
        *,
        tls: Tls | None = None,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seeders = tuple(seeders)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._torrents = torrents
        self._replicas = replicas
        self._tls = tls
        self._look_seconds = look_seconds
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[asyncio.Task[None], Digest] = {}
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._failing: dict[str, str] = {}
        self._missed = dict.fromkeys(self._seeders, 0)
        self._sessions: dict[str, str] = {}
        self._lock: LockFile | None = None
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks after the seeders from now on."""
        if self._seeders:
            self._watching = asyncio.create_task(kept_up(self._watch, "watch over the seeders"))

    async def put(self, digest: Digest, torrent: bytes) -> None:
        """Tells all seeders. Returns when they know, or after a moment: the rest goes on in the background.

        Nodes get the torrent after this, so that their first announce already finds a seed.
        """
        if len(self._tasks) >= _MAX_QUEUED:
            _LOG.warning("seeders are behind: they are told of %s when they answer again", digest)
            return
        up = self._up()
        tasks = [asyncio.create_task(self._put(each, digest, torrent, up)) for each in self._seeders]
        for task in tasks:
            self._tasks[task] = digest
            task.add_done_callback(self._tasks.pop)
        if tasks:
            await asyncio.wait(tasks, timeout=_FIRST_TRY_SECONDS)

    async def delete(self, digest: Digest) -> bool:
        """Whether every seeder has let go of the blob, so that it may be unlinked."""
        for task, put in self._tasks.items():
            if put == digest:
                task.cancel()  # or a late repetition would have it seeded again
        answers = await asyncio.gather(*(self._delete(seeder, digest) for seeder in self._seeders))
        return all(answers)

    def failing(self) -> list[str]:
        """The seeders that did not answer when they were last told something, and what they did instead."""
        return [f"seeder {seeder} {what}" for seeder, what in self._failing.items()]

    async def close(self) -> None:
        tasks = [*self._tasks, *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lock is not None:
            self._lock.close()
        if self._session is not None:
            await self._session.close()

    # Who is there, and who seeds what.

    def _up(self) -> frozenset[str]:
        return frozenset(each for each in self._seeders if self._missed[each] < _LOOKS)

    async def _watch(self) -> None:
        """Every worker looks; one of them tells, and when it dies, another one finds its lock free."""
        before, said = dict.fromkeys(self._seeders, ""), ""
        while True:
            await asyncio.gather(*(self._look(seeder) for seeder in self._seeders))
            now = {seeder: self._sessions.get(seeder, "") for seeder in self._up()}
            try:
                if now != before and self._is_watchman():
                    if now.keys() != before.keys():
                        _LOG.warning("seeders that answer: %s", ", ".join(sorted(now)) or "none")
                    await self._assign(before, now)
                    before, said = now, ""
            except (OSError, StorageError, TransientError) as error:
                if str(error) != said:
                    _LOG.warning("cannot look after who seeds what, trying again: %s", error)
                said = str(error)
            await asyncio.sleep(self._look_seconds)

    def _is_watchman(self) -> bool:
        if self._lock is None:
            self._lock = LockFile(self._torrents / ".seeders")
        return self._lock.try_acquire()

    async def _look(self, seeder: str) -> None:
        try:
            async with self._client().get(f"{seeder}/site/v1/seeding", timeout=_LOOK_TIMEOUT) as response:
                self._sessions[seeder] = str((await response.json())["session"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            self._missed[seeder] += 1
        else:
            self._missed[seeder] = 0

    async def _assign(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Tells those whose part in a blob has changed, and whoever has started anew of every blob.

        A seeder that is the only one has part in all: what it seeds already it need not be told. Raises TransientError.
        """
        was_up, up = frozenset(before), frozenset(now)
        anew = {each for each in up if now[each] != before.get(each)}
        seeded = await self._seeded_by(self._seeders[0]) if up and len(self._seeders) == 1 else frozenset()
        for path in await asyncio.to_thread(lambda: sorted(self._torrents.glob("*.torrent"))):
            with contextlib.suppress(InputError, OSError):  # not ours, or just evicted
                digest = Digest.parse(f"sha256:{path.stem}")
                if str(digest) in seeded:
                    continue
                parts = {each: self._rank(digest, each, up) for each in up}
                told = [each for each in up if each in anew or parts[each] != self._rank(digest, each, was_up)]
                if told:
                    torrent = await asyncio.to_thread(path.read_bytes)
                    await asyncio.gather(*(self._put(each, digest, torrent, up) for each in told))

    def _rank(self, digest: Digest, seeder: str, up: frozenset[str]) -> int:
        """Which replica of the blob this seeder is. ``replicas``: none, it only knows the torrent."""
        if len(self._seeders) == 1:
            return 0
        return min(ranked(digest, up).index(seeder), self._replicas) if seeder in up else self._replicas

    async def _seeded_by(self, seeder: str) -> frozenset[str]:
        """The digests of what it seeds. Raises TransientError."""
        try:
            async with self._client().get(f"{seeder}/site/v1/seeds", headers=self._headers) as response:
                response.raise_for_status()
                return frozenset(str(each["digest"]) for each in (await response.json())["seeds"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise TransientError(f"seeder {seeder} does not say what it seeds: {error!r}") from error

    # What they are told.

    async def _put(self, seeder: str, digest: Digest, torrent: bytes, up: frozenset[str]) -> None:
        query = {"rank": str(self._rank(digest, seeder, up)), "replicas": str(min(self._replicas, len(up)) or 1)}

        async def attempt() -> None:
            status = await self._ask("PUT", seeder, digest, torrent, query)
            if status >= 300:
                raise TransientError(f"answered {status}")

        try:
            async with self._slots:
                await retrying()(attempt)
        except TransientError as error:
            _LOG.warning("seeder %s does not seed %s: %s", seeder, digest, error)

    async def _delete(self, seeder: str, digest: Digest) -> bool:
        if self._clock() < self._silent_until.get(seeder, 0.0):
            return False
        try:
            status = await self._ask("DELETE", seeder, digest)
        except TransientError as error:
            self._silent_until[seeder] = self._clock() + SILENT_SECONDS
            _LOG.warning("seeder %s may still seed %s, so it stays: %s", seeder, digest, error)
            return False
        return status < 300 or status == 404

    async def _ask(
        self, method: str, seeder: str, digest: Digest, body: bytes | None = None, query: dict[str, str] | None = None
    ) -> int:
        headers = self._headers | ({"Content-Type": "application/x-bittorrent"} if body is not None else {})
        url = f"{seeder}/site/v1/seeds/{digest}"
        try:
            async with self._client().request(method, url, params=query, data=body, headers=headers) as response:
                self._failing.pop(seeder, None)
                return response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            self._failing[seeder] = f"does not answer: {str(error) or type(error).__name__}"
            raise TransientError(self._failing[seeder]) from error

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
                connector=aiohttp.TCPConnector(ssl=self._tls.context() if self._tls is not None else True),
            )
        return self._session
