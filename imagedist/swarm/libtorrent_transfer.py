"""One torrent of the libtorrent session: what is here of it, who reads it, its web seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from imagedist.errors import SourceError, StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.swarm import torrent as rules
from imagedist.swarm.arrival import Arrival
from imagedist.swarm.session import TransferStatus

# For a v2 torrent libtorrent 2.1 appends "/<name>" to any web seed URL, after the query too. A query parameter of
# our own takes it, so that path and signature arrive as they were given.
_NAME_TAKER = "swarm="

_SPREAD_COPIES = 2.0
"""Each piece is there twice among those we are connected to: at the seeder and at somebody else."""
_PREFERRED_PIECES = 24
"""A late node, five seeds, 184 pieces in 12.5 s: a first one, a quarter and half of them could be read after 10.6, 12.3
and 12.5 s without preference, 1.3, 8.9 and 12.4 s with 8 pieces, 2.1, 6.7 and 10.0 with 16, 3.5, 6.7 and 8.9 with 24,
4.5, 6.8 and 8.8 with 32."""
_PRIORITY, _PREFERRED_PRIORITY = 4, 6
"""libtorrent picks by availability × (8 - priority): preferred is what is up to twice as frequent as the rarest."""

_LAST_BYTES = 1 << 20
"""The end of a torrent is awaited alert by alert: whoever waits for the whole shall not wait for a lull as well."""

_AHEAD_BYTES = 1 << 20
"""A reader that is behind gets so many verified bytes by one wake-up: piece by piece, each was two of libtorrent's
threads' and one of the event loop's."""

_FLUSH_SECONDS = 1.0
_LOST_SECONDS = 10.0


class Flush:
    """When libtorrent is asked to write what it holds in memory: while a blob arrives about once a second, so that
    SIGKILL costs no more than a second's pieces, and once when all are there.

    Each is answered by an alert, in order; only the one that nothing follows tells that the file is whole.
    """

    def __init__(self) -> None:
        self.is_last = False
        self._pending = 0
        self._begun_at = float("-inf")
        self._unwritten_since: float | None = None

    def note_piece(self, now: float) -> None:
        if self._unwritten_since is None:
            self._unwritten_since = now

    def is_due(self, now: float) -> bool:
        if self._pending or self.is_last:
            # An alert was lost with others that were too many: it is asked again.
            return self._pending > 0 and now - self._begun_at > _LOST_SECONDS
        return self._unwritten_since is not None and now - max(self._unwritten_since, self._begun_at) >= _FLUSH_SECONDS

    def begin(self, now: float) -> None:
        is_lost = self._pending > 0 and now - self._begun_at > _LOST_SECONDS
        self._pending = 1 if is_lost else self._pending + 1
        self._begun_at, self._unwritten_since = now, None

    def end(self) -> bool:
        """Whether that was the last one, and the file is whole."""
        self._pending = max(0, self._pending - 1)
        return self.is_last and not self._pending


class LibtorrentTransfer:
    """One torrent in a libtorrent session.

    Args:
        hurry: tells the session that an alert is awaited from now on.
    """

    def __init__(self, facts: rules.TorrentFacts, hurry: Callable[[], None]) -> None:
        self.facts = facts
        self._hurry = hurry
        self.arrival = Arrival(facts)
        self.handle: Any = None
        self.latest: Any = None
        self.flush = Flush()
        self.is_checked = asyncio.Event()
        self.is_introduced = False
        self._web_seed: str | None = None
        self._reads: dict[int, set[asyncio.Future[bytes]]] = {}
        self._ahead: dict[int, bytes] = {}
        """Read before somebody asked; the oldest go first."""
        self._preferred: tuple[int, ...] = ()
        self._given: dict[int, asyncio.Future[bool]] = {}

    def __repr__(self) -> str:
        return f"<LibtorrentTransfer {self.arrival!r}>"

    @property
    def digest(self) -> Digest:
        return self.facts.digest

    @property
    def size_bytes(self) -> int:
        return self.facts.size_bytes

    @property
    def piece_length(self) -> int:
        return self.facts.piece_length

    @property
    def is_awaited(self) -> bool:
        """Whether somebody cannot go on before the next alert."""
        arrival = self.arrival
        is_ending = not arrival.is_complete and self.size_bytes - arrival.present_bytes <= _LAST_BYTES
        return bool(self._reads or self._given) or is_ending

    def status(self) -> TransferStatus:
        """Pieces and received bytes as of now; peers, rates and uploaded bytes at most half a second old."""
        latest = self.latest
        return TransferStatus(
            digest=self.digest,
            size_bytes=self.size_bytes,
            present_bytes=self.arrival.present_bytes,
            is_complete=self.arrival.is_complete,
            peers=latest.num_peers if latest else 0,
            seeds=latest.num_seeds if latest else 0,
            download_rate=latest.download_payload_rate if latest else 0,
            upload_rate=latest.upload_payload_rate if latest else 0,
            uploaded_bytes=latest.total_payload_upload if latest else 0,
            received_bytes=self.arrival.received_bytes,
            downloaded_bytes=latest.total_payload_download if latest else 0,
            is_introduced=self.is_introduced,
            known_peers=latest.list_peers if latest else 0,
        )

    async def piece(self, index: int) -> bytes:
        await self.arrival.wait_piece(index)
        if self.arrival.failure:
            raise self.arrival.failure
        if (content := self._ahead.pop(index, None)) is not None:
            return content
        # Concurrent readers of one piece share one read; each has its own future.
        is_read = index in self._reads
        reader: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._reads.setdefault(index, set()).add(reader)
        if not is_read:
            self.handle.read_piece(index)
            self._read_ahead(index + 1)
        self._hurry()
        return await reader

    def _read_ahead(self, index: int) -> None:
        """What whoever reads the piece before will want next, as far as it is here."""
        for piece in range(index, min(index + self._ahead_pieces, self.facts.piece_count)):
            if not self.arrival.has_piece(piece) or self.arrival.is_complete:  # then readers have the file
                break
            if piece not in self._reads and piece not in self._ahead:
                self._reads[piece] = set()
                self.handle.read_piece(piece)

    def complete(self) -> None:
        self.arrival.complete()
        self._ahead.clear()

    async def wait_complete(self) -> None:
        await self.arrival.wait_complete()

    async def give(self, index: int, content: bytes) -> bool:
        await self.is_checked.wait()  # until then libtorrent does not take any
        if self.arrival.failure:
            raise self.arrival.failure
        if self.arrival.has_piece(index):
            return True
        given = self._given.get(index)
        if given is None:
            given = self._given[index] = asyncio.get_running_loop().create_future()
            await asyncio.to_thread(self.handle.add_piece, index, content, 0)
            self._hurry()
        return await asyncio.shield(given)

    def piece_was_checked(self, index: int, *, is_right: bool) -> None:
        """Whether by us or by peers it came: its hash matched, or not."""
        given = self._given.pop(index, None)
        if given is not None:
            self.arrival.drop_blocks(index)
            given.set_result(is_right)

    def set_web_seed(self, url: str | None) -> None:
        if self.arrival.failure:
            return
        if url is not None:
            url += ("&" if "?" in url else "?") + _NAME_TAKER
        if url == self._web_seed:
            return
        if self._web_seed is not None:
            self.handle.remove_url_seed(self._web_seed)
        if url is not None:
            self.handle.add_url_seed(url)
        self._web_seed = url

    def prefer_wanted(self) -> None:
        """Pieces that readers need next come a little sooner, once peers can give all of them without the seeder: until
        then rarest first alone spreads what there is, and nodes that all want the same pieces have nothing to trade.
        """
        if self.latest.distributed_copies < _SPREAD_COPIES or self.arrival.is_complete:
            return
        wanted = self.arrival.next_wanted(_PREFERRED_PIECES)
        if wanted != self._preferred:
            before = dict.fromkeys(self._preferred, _PRIORITY)
            self.handle.prioritize_pieces([*(before | dict.fromkeys(wanted, _PREFERRED_PRIORITY)).items()])
            self._preferred = wanted

    @property
    def _ahead_pieces(self) -> int:
        return _AHEAD_BYTES // self.piece_length

    def piece_was_read(self, index: int, content: bytes, error: OSError | None) -> None:
        readers = self._reads.pop(index, set())
        if not readers and error is None and not self.arrival.is_complete:
            if len(self._ahead) >= 2 * self._ahead_pieces:
                del self._ahead[next(iter(self._ahead))]
            self._ahead[index] = content
        for reader in readers:
            if reader.done():
                continue
            if error:
                reader.set_exception(storage_error(f"read piece {index} of {self.digest}", error))
            else:
                reader.set_result(content)

    def fail(self, failure: SourceError | StorageError) -> None:
        self.arrival.fail(failure)
        self.is_checked.set()
        for given in self._given.values():
            given.set_exception(failure)
            given.exception()  # whoever gave it may have gone
        self._given.clear()
        for readers in self._reads.values():
            for reader in readers:
                if not reader.done():
                    reader.set_exception(failure)
        self._reads.clear()
        self._ahead.clear()
