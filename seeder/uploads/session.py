"""All that the seeder gives away: one port for every torrent, one window and one cap for all peers."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imagedist.config import Address
from imagedist.errors import StorageError, listen_error, storage_error
from imagedist.metrics import PEERS_REFUSED, SEEDER_PEERS, SEEDER_SENT_BYTES
from imagedist.oci.digest import Digest
from imagedist.service import kept_up
from imagedist.swarm.settings import PEER_ID_PREFIXES
from imagedist.swarm.torrent import TorrentFacts
from imagedist.threads import settled
from seeder.uploads.offers import Host, Offers, Pace, Part
from seeder.uploads.order import most_wanted_first
from seeder.uploads.peer import Peer
from seeder.uploads.reading import BlobFile
from seeder.uploads.window import Window
from seeder.uploads.wire import Block, WireError

_LOG = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_COUNT_SECONDS = 1.0
_READERS = 4
_MAX_PEERS = 4000
CONNECTIONS_PER_HOST = 128
_PER_HOST_AND_TORRENT = 8
"""A node has one; several nodes may share an address."""
_TURNS = 256
"""Connections that are sent to at a time: half a megabyte waits in the process for each."""
_REMEMBERED_SECONDS = 60.0
_MAX_REMEMBERED = 10_000
"""Hosts that are gone, and were late."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Caps(Protocol):
    """What bounds the bytes per second to all peers together."""

    async def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may be sent."""


CountSeeds = Callable[[bytes], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """One torrent at one moment. ``peers``: connected and incomplete."""

    digest: Digest
    size_bytes: int
    is_complete: bool
    peers: int
    uploaded_bytes: int


class Upload:
    """One blob that is given away. Its file is opened when a peer asks for it and closed when none is left."""

    def __init__(self, facts: TorrentFacts, path: Path, offers: Offers, readers: ThreadPoolExecutor) -> None:
        self.facts = facts
        self.offers = offers
        self.peers: set[Peer] = set()
        self.by_host: Counter[str] = Counter()
        self.uploaded_bytes = 0
        self.failure: StorageError | None = None
        self._readers = readers
        self._file = BlobFile(path, facts.piece_length)
        self._reading = 0

    @property
    def infohash(self) -> bytes:
        return self.facts.short_infohash

    def status(self) -> UploadStatus:
        facts = self.facts
        is_complete = self.failure is None
        return UploadStatus(facts.digest, facts.size_bytes, is_complete, self.offers.incomplete, self.uploaded_bytes)

    async def read(self, blocks: list[Block]) -> list[bytes]:
        loop = asyncio.get_running_loop()
        self._reading += 1
        try:
            contents = await settled(loop.run_in_executor(self._readers, self._file.read, blocks))
            self.uploaded_bytes += sum(block.length for block in blocks)
            return contents
        finally:
            self._reading -= 1
            self.close_if_idle()

    def failed(self, error: StorageError) -> None:
        if self.failure is None:
            _LOG.warning("%s", error)
        self.failure = error
        self.drop_peers()

    def drop_peers(self) -> None:
        for peer in tuple(self.peers):
            peer.close()

    def close_if_idle(self) -> None:
        if not self.peers and not self._reading:
            self._file.close()


class UploadSession:
    """Gives blobs away by BitTorrent. Made by ``await UploadSession.open(…)``.

    It only answers: peers find it by the tracker, and it never dials.
    """

    def __init__(
        self,
        caps: Caps | None,
        networks: Sequence[Network],
        pace: Pace,
        count_seeds: CountSeeds | None,
        connections_per_host: int,
        clock: Callable[[], float],
    ) -> None:
        self.turns = asyncio.Semaphore(_TURNS)
        self.peer_id = PEER_ID_PREFIXES["seeder"].encode() + secrets.token_bytes(12)
        self.address = Address("", 0)
        self._caps = caps
        self._networks = tuple(networks)
        self._pace = pace
        self._count_seeds = count_seeds
        self._connections_per_host = connections_per_host
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="seeding")
        self._window = Window(clock)
        self._uploads: dict[Digest, Upload] = {}
        self._by_infohash: dict[bytes, Upload] = {}
        self._active: dict[Upload, None] = {}
        self._peers: set[Peer] = set()
        self._is_empty = asyncio.Event()
        self._hosts: dict[str, Host] = {}
        self._is_offering = False
        self._server: asyncio.Server | None = None
        self._repeating: list[asyncio.Task[None]] = []
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<UploadSession {self.address} with {len(self._uploads)} torrents, {len(self._peers)} peers>"

    @property
    def connections(self) -> int:
        """Of all peers, those that have not said yet what they want among them."""
        return len(self._peers)

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        caps: Caps | None = None,
        networks: Sequence[Network] = (),
        pace: Pace = Pace(),
        count_seeds: CountSeeds | None = None,
        connections_per_host: int = CONNECTIONS_PER_HOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> UploadSession:
        """Starts to listen.

        Args:
            address: port 0 takes a free one, which ``session.address`` then names.
            caps: asked before anything is sent. None: no limit.
            networks: from which peers may come. Empty: from everywhere.
            count_seeds: how many peers have all of a torrent, by its short infohash.
            connections_per_host: of all torrents; a node has one for each.

        Raises:
            InputError: the address cannot be listened on.
        """
        opened = cls(caps, networks, pace, count_seeds, connections_per_host, clock)
        try:
            server = await opened._loop.create_server(
                lambda: Peer(opened, clock), address.host, address.port, backlog=1024
            )
        except OSError as error:
            await opened.close()
            raise listen_error(address, error) from error
        opened._server = server
        opened.address = Address(address.host, server.sockets[0].getsockname()[1])
        repeated = {"ticks of uploads": opened._tick, "counts of seeds": opened._count}
        opened._repeating = [asyncio.create_task(kept_up(each, name)) for name, each in repeated.items()]
        return opened

    def add(self, facts: TorrentFacts, directory: Path, part: Part = Part()) -> Upload:
        """Gives ``directory/<hex>`` away from now on; again is fine, and changes the part.

        Raises:
            StorageError: the file has another size, or cannot be looked at.
        """
        path = directory / facts.digest.hex
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise storage_error(f"seed {path}", error) from error
        if size_bytes != facts.size_bytes:
            raise StorageError(f"cannot seed {path}: it has {size_bytes} bytes, its torrent {facts.size_bytes}")
        upload = self._uploads.get(facts.digest)
        if upload is None:
            upload = Upload(facts, path, Offers(facts, self._pace, self._clock), self._readers)
            self._uploads[facts.digest] = self._by_infohash[upload.infohash] = upload
        upload.failure = None
        upload.offers.part = part
        return upload

    def get(self, digest: Digest) -> Upload | None:
        return self._uploads.get(digest)

    def uploads(self) -> Sequence[Upload]:
        return tuple(self._uploads.values())

    def remove(self, digest: Digest) -> None:
        """Lets go of a blob: nobody is sent a byte of it any more."""
        upload = self._uploads.pop(digest, None)
        if upload is not None:
            del self._by_infohash[upload.infohash]
            upload.drop_peers()

    async def close(self) -> None:
        self._is_closing = True
        for task in self._repeating:
            task.cancel()
        if self._repeating:
            await asyncio.wait(self._repeating)
        if self._server is not None:
            self._server.close()
        sending = [peer.sending for peer in self._peers if peer.sending is not None]
        for peer in tuple(self._peers):
            peer.close()
        if self._peers:
            self._is_empty.clear()
            await self._is_empty.wait()
        if sending:
            await asyncio.wait(sending)
        for upload in self._uploads.values():
            upload.close_if_idle()
        await asyncio.to_thread(self._readers.shutdown)

    # What a connection asks.

    def came(self, peer: Peer) -> None:
        SEEDER_PEERS.set(len(self._peers) + 1)
        self._peers.add(peer)
        host = self.host_of(peer.address)
        host.connections += 1
        if self._networks and not _is_within(peer.address, self._networks):
            raise WireError("it is outside of the site's networks", "foreign")
        if self._is_closing:
            raise WireError("the seeder stops", "full")
        if len(self._peers) > _MAX_PEERS or host.connections > self._connections_per_host:
            raise WireError("too many connections", "full")

    def admit(self, peer: Peer, infohash: bytes) -> Upload:
        upload = self._by_infohash.get(infohash)
        if upload is None or upload.failure is not None:
            raise WireError("no torrent of this site", "unknown")
        if upload.by_host[peer.address] >= _PER_HOST_AND_TORRENT:
            raise WireError("too many connections for one torrent", "full")
        upload.by_host[peer.address] += 1
        upload.peers.add(peer)
        self._active[upload] = None
        return upload

    def host_of(self, address: str) -> Host:
        return self._hosts.setdefault(address, Host(self._clock))

    async def allow(self, size_bytes: int) -> None:
        if self._caps is not None:
            await self._caps.take(size_bytes)

    def sent(self, size_bytes: int) -> None:
        self._window.sent(size_bytes)
        SEEDER_SENT_BYTES.inc(size_bytes)

    def changed(self) -> None:
        if not self._is_offering:
            self._is_offering = True
            self._loop.call_soon(self._offer)

    def refused(self, reason: str) -> None:
        PEERS_REFUSED.labels(reason=reason).inc()

    def gone(self, peer: Peer) -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._is_empty.set()
        SEEDER_PEERS.set(len(self._peers))
        if isinstance(upload := peer.upload, Upload):
            upload.peers.discard(peer)
            upload.by_host[peer.address] -= 1
            if not upload.by_host[peer.address]:
                del upload.by_host[peer.address]
            if not upload.peers:
                self._active.pop(upload, None)
                upload.close_if_idle()
            self.changed()
        host = self._hosts[peer.address]
        host.connections -= 1
        host.left_at = self._clock()
        if not host.connections and (not host.is_late or len(self._hosts) > _MAX_REMEMBERED):
            del self._hosts[peer.address]

    # Who gets the next piece.

    def _offer(self) -> None:
        """Fills the window: the most wanted torrent first, and no torrent is kept waiting for ever."""
        self._is_offering = False
        now = self._clock()
        under_way_bytes = sum(upload.offers.under_way_bytes for upload in self._active)
        for offers in most_wanted_first([upload.offers for upload in self._active], now):
            under_way_bytes -= offers.under_way_bytes
            while offers.offer(self._window.room_bytes(under_way_bytes + offers.under_way_bytes)):
                pass
            under_way_bytes += offers.under_way_bytes

    async def _count(self) -> None:
        """Beside the ticks: they go on when nobody answers here."""
        while self._count_seeds is not None:
            await asyncio.sleep(_COUNT_SECONDS)
            for upload in tuple(self._active):
                upload.offers.seeds_elsewhere = await self._count_seeds(upload.infohash)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            for upload in self._active:
                upload.offers.tick()
            now = self._clock()
            for peer in tuple(self._peers):
                peer.tick(now)
            self._forget_hosts(now)
            self.changed()

    def _forget_hosts(self, now: float) -> None:
        for address, host in tuple(self._hosts.items()):
            if not host.connections and now - host.left_at > _REMEMBERED_SECONDS:
                del self._hosts[address]


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    peer = ipaddress.ip_address(address.partition("%")[0])
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return any((mapped or peer) in network for network in networks)
