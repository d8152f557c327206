"""The twin of the libtorrent session: swarms inside one process, deterministic, with faults on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from imagedist.config import Address
from imagedist.errors import InputError, SourceError, StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.swarm import torrent as rules
from imagedist.swarm.arrival import Arrival
from imagedist.swarm.session import TransferStatus
from imagedist.swarm.settings import Role


class MemorySwarm:
    """The network of memory sessions: every transfer of a blob in it is a peer of every other.

    Attributes:
        web: what web seeds answer, by URL.
        is_stalled: while True no piece moves; ``resume`` goes on.
    """

    def __init__(self) -> None:
        self.web: dict[str, bytes] = {}
        self.is_stalled = False
        self._sessions: dict[Address, MemorySession] = {}
        self._changed = asyncio.Event()

    async def open(self, address: Address, *, role: Role = "node") -> MemorySession:
        """Joins a session at an address; port 0 takes a free one.

        Raises:
            InputError: another session has the address.
        """
        if address.port == 0:
            taken = {used.port for used in self._sessions}
            address = Address(address.host, next(port for port in range(49152, 65536) if port not in taken))
        if address in self._sessions:
            raise InputError(f"cannot listen on {address}: the port is in use; configure another port")
        session = MemorySession(self, address, role)
        self._sessions[address] = session
        return session

    def stall(self) -> None:
        """Stops all traffic, as a network without packets does."""
        self.is_stalled = True

    def resume(self) -> None:
        self.is_stalled = False
        self.notify()

    def leave(self, session: MemorySession) -> None:
        self._sessions.pop(session.address, None)
        self.notify()

    def notify(self) -> None:
        """Something changed that a waiting transfer may have waited for."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Returns at the next ``notify``."""
        await self._changed.wait()

    def peers_of(self, transfer: MemoryTransfer) -> list[MemoryTransfer]:
        found = (session.get(transfer.digest) for session in self._sessions.values())
        return [peer for peer in found if peer is not None and peer is not transfer]


class MemoryTransfer:
    """One torrent in a memory session: takes one piece a turn, the first that anybody has."""

    def __init__(
        self, swarm: MemorySwarm, role: Role, facts: rules.TorrentFacts, hashes: Sequence[bytes], path: Path
    ) -> None:
        self.facts = facts
        self._hashes = hashes
        self.role = role
        self.arrival = Arrival(facts)
        self.uploaded_bytes = 0
        self._swarm = swarm
        self._path = path
        self._web_seed: str | None = None
        self._pieces: dict[int, bytes] = {}
        self._download: asyncio.Task[None] | None = None

    @property
    def digest(self) -> Digest:
        return self.facts.digest

    @property
    def size_bytes(self) -> int:
        return self.facts.size_bytes

    @property
    def piece_length(self) -> int:
        return self.facts.piece_length

    def status(self) -> TransferStatus:
        peers = self._swarm.peers_of(self)
        return TransferStatus(
            digest=self.digest,
            size_bytes=self.size_bytes,
            present_bytes=self.arrival.present_bytes,
            is_complete=self.arrival.is_complete,
            peers=len(peers),
            seeds=sum(peer.arrival.is_complete for peer in peers),
            download_rate=0,
            upload_rate=0,
            uploaded_bytes=self.uploaded_bytes,
            received_bytes=self.arrival.received_bytes,
            downloaded_bytes=sum(self.arrival.received_bytes.values()),
        )

    async def piece(self, index: int) -> bytes:
        await self.arrival.wait_piece(index)
        if self.arrival.failure:
            raise self.arrival.failure
        return self._pieces[index]

    async def wait_complete(self) -> None:
        await self.arrival.wait_complete()

    async def give(self, index: int, content: bytes) -> bool:
        if self.arrival.failure:
            raise self.arrival.failure
        if not self.arrival.has_piece(index) and self._is_right(index, content):
            try:
                self._keep(index, content)
            except OSError as error:
                raise storage_error(f"keep the pieces of {self.digest}", error) from error
        return self.arrival.has_piece(index)

    def set_web_seed(self, url: str | None) -> None:
        self._web_seed = url
        self._swarm.notify()

    def seed(self) -> None:
        """Takes the complete file as it is, unhashed."""
        content = self._path.read_bytes()
        if len(content) != self.size_bytes:
            raise StorageError(f"cannot seed {self._path}: it has {len(content)} bytes, expected {self.size_bytes}")
        self._pieces = {index: self._cut(content, index) for index in range(self.facts.piece_count)}
        self.arrival.complete()
        self._swarm.notify()

    def check(self) -> None:
        """Takes those pieces of the file that are right."""
        content = self._path.read_bytes() if self._path.is_file() else b""
        for index in range(self.facts.piece_count):
            if self._is_right(index, piece := self._cut(content, index)):
                self._pieces[index] = piece
                self.arrival.add_piece(index, found=True)

    def start(self) -> None:
        self._download = asyncio.create_task(self._run())

    async def stop(self, failure: SourceError) -> None:
        self.arrival.fail(failure)
        if self._download:
            self._download.cancel()
            await asyncio.wait([self._download])

    async def _run(self) -> None:
        while self.arrival.present_bytes < self.size_bytes:
            if (found := self._find_any()) is None:
                await self._swarm.change()
                continue
            index, content, source = found
            for block in range(-(-len(content) // rules.BLOCK_BYTES)):
                self.arrival.add_block(index, block, source)
            try:
                self._keep(index, content)
            except OSError as error:
                self.arrival.fail(storage_error(f"keep the pieces of {self.digest}", error))
                return
            await asyncio.sleep(0)
        await self._finish()

    def _find_any(self) -> tuple[int, bytes, str] | None:
        for index in range(self.facts.piece_count):
            if not self.arrival.has_piece(index) and (found := self._find(index)) is not None:
                return index, *found
        return None

    def _keep(self, index: int, content: bytes) -> None:
        self._pieces[index] = content
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.seek(index * self.piece_length)
            file.write(content)
        self.arrival.add_piece(index)
        self._swarm.notify()

    def _is_right(self, index: int, content: bytes) -> bool:
        is_whole = len(content) == self.facts.piece_size(index)
        return is_whole and rules.piece_hash(self.facts, content) == self._hashes[index]

    async def _finish(self) -> None:
        content = b"".join(self._pieces[index] for index in range(self.facts.piece_count))
        if hashlib.sha256(content).hexdigest() != self.digest.hex:
            self.arrival.fail(SourceError(f"the web seed of {self.digest} sent other bytes"))
            return
        self.arrival.complete()
        self._swarm.notify()

    def _find(self, index: int) -> tuple[bytes, str] | None:
        if self._swarm.is_stalled:
            return None
        for peer in self._swarm.peers_of(self):
            if peer.arrival.has_piece(index):
                content = peer._pieces[index]
                peer.uploaded_bytes += len(content)
                return content, "seeder" if peer.role == "seeder" else "peer"
        if self._web_seed in self._swarm.web:
            return self._cut(self._swarm.web[self._web_seed], index), "webseed"
        return None

    def _cut(self, content: bytes, index: int) -> bytes:
        return content[index * self.piece_length :][: self.piece_length]


class MemorySession:
    """All torrents of one member of a ``MemorySwarm``. Rates are not simulated: limits are only remembered."""

    def __init__(self, swarm: MemorySwarm, address: Address, role: Role) -> None:
        self.address = address
        self.limits: tuple[int | None, int | None] = (None, None)
        self.connections: int | None = None
        self._swarm = swarm
        self._role = role
        self._transfers: dict[Digest, MemoryTransfer] = {}
        self._is_closed = False

    async def add(
        self,
        torrent: bytes,
        directory: Path,
        *,
        trackers: Sequence[str] = (),
        seeding: bool = False,
        peers: Sequence[tuple[str, int]] = (),
    ) -> MemoryTransfer:
        facts = rules.parse(torrent)
        if self._is_closed:
            raise SourceError(f"cannot add {facts.digest}: the swarm session is closed")
        if present := self._transfers.get(facts.digest):
            return present
        path, hashes = directory / facts.digest.hex, rules.piece_hashes(torrent)
        transfer = MemoryTransfer(self._swarm, self._role, facts, hashes, path)
        try:
            if seeding:
                transfer.seed()
            elif not directory.is_dir():
                raise NotADirectoryError(f"no directory {directory}")
            else:
                transfer.check()
                transfer.start()
        except OSError as error:
            raise storage_error(f"add the torrent of {facts.digest}", error) from error
        self._transfers[facts.digest] = transfer
        self._swarm.notify()
        return transfer

    def get(self, digest: Digest) -> MemoryTransfer | None:
        return self._transfers.get(digest)

    def transfers(self) -> Sequence[MemoryTransfer]:
        return tuple(self._transfers.values())

    async def remove(self, digest: Digest) -> None:
        if transfer := self._transfers.pop(digest, None):
            await transfer.stop(SourceError(f"the transfer of {digest} was removed"))

    def set_limits(self, upload: int | None, download: int | None, connections: int | None = None) -> None:
        self.limits = (upload, download)
        self.connections = connections or self.connections

    async def close(self) -> None:
        self._is_closed = True
        for digest in tuple(self._transfers):
            await self.remove(digest)
        self._swarm.leave(self)
