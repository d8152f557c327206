"""One connection of a peer to the seeder: the handshake, what the peer has and asks for, the blocks that it gets."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Protocol

from imagedist.errors import StorageError
from seeder.uploads import wire
from seeder.uploads.offers import Host, Offers, Taker
from seeder.uploads.wire import Block, Kind, WireError

_LOG = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 5.0
_KEEP_ALIVE_SECONDS = 10.0
"""Nodes give up a peer that says nothing for 30 s."""
_SILENT_SECONDS = 60.0
_UNACKNOWLEDGED_MILLISECONDS = 15_000
_MAX_REQUESTS = 4096
_AT_ONCE_BYTES = 256 << 10
"""Read and sent in one go; twice as much may wait in the process for the peer."""
_UNTAKEN_SECONDS = 30.0
"""A peer that does not take what was sent within this (6 KB/s) keeps others from their turn, and is hung up on."""
_UNREAD_BYTES = 2 << 20
"""More waits only for one that asks and reads no answers. A short message for each piece of a large blob is less."""


class Upload(Protocol):
    """A torrent as its peers see it."""

    offers: Offers

    @property
    def infohash(self) -> bytes: ...

    async def read(self, blocks: list[Block]) -> list[bytes]:
        """Raises StorageError."""

    def failed(self, error: StorageError) -> None:
        """Its file cannot be read any more."""


class Owner(Protocol):
    """What a connection asks of the session."""

    peer_id: bytes
    turns: asyncio.Semaphore
    """Of all connections that read and send."""

    def came(self, peer: Peer) -> None:
        """Raises WireError: not from here, or one too many."""

    def admit(self, peer: Peer, infohash: bytes) -> Upload:
        """Raises WireError."""

    def host_of(self, address: str) -> Host: ...

    async def allow(self, size_bytes: int) -> None:
        """Returns when so many bytes may be sent."""

    def sent(self, size_bytes: int) -> None: ...

    def changed(self) -> None:
        """Offers may be made."""

    def refused(self, reason: str) -> None: ...

    def gone(self, peer: Peer) -> None: ...


class Peer(asyncio.Protocol):
    """A peer that has connected.

    Attributes:
        upload: the torrent; None until its handshake came.
        sending: what sends it blocks now.
    """

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        self.upload: Upload | None = None
        self.address = ""
        self._owner = owner
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._heard_at = self._sent_at = clock()
        self._taker: Taker | None = None
        self._is_fast = False
        self._has_everything = False
        self._requests: OrderedDict[Block, None] = OrderedDict()
        """In their order; thousands wait, and any can be cancelled."""
        self.sending: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()

    def __repr__(self) -> str:
        return f"<Peer {self.address} waits for {len(self._requests)} blocks>"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_AT_ONCE_BYTES)
        name = transport.get_extra_info("peername")
        self.address = str(name[0]) if isinstance(name, tuple) else ""
        connected = transport.get_extra_info("socket")
        # A peer that lost its power is noticed by what it does not acknowledge.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MILLISECONDS)
        try:
            self._owner.came(self)
        except WireError as error:
            self._refuse(error)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._clock()
        self._received += data
        try:
            if self._transport is not None and self._transport.get_write_buffer_size() > _UNREAD_BYTES:
                raise WireError("it reads no answers", "unread")
            if self.upload is not None or self._greet():
                self._understand()
        except WireError as error:
            self._refuse(error)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._requests.clear()
        self._may_write.set()
        if self.sending is not None:
            self.sending.cancel()
        if self.upload is not None and self._taker is not None:
            self.upload.offers.leave(self._taker)
        self._owner.gone(self)

    # What the session calls.

    def tick(self, now: float) -> None:
        """Now and then: ends what has not been heard of for too long, and is heard of itself."""
        if now - self._heard_at > (_HANDSHAKE_SECONDS if self.upload is None else _SILENT_SECONDS):
            self._owner.refused("silent")
            self.close()
        elif self._has_everything:
            self.close()  # it had time to read that we have everything as well
        elif self.upload is not None and now - self._sent_at > _KEEP_ALIVE_SECONDS:
            self._write([wire.KEEP_ALIVE])

    def _refuse(self, error: WireError) -> None:
        _LOG.debug("%s: %s", self.address, error)
        self._owner.refused(error.reason)
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # The conversation.

    def _greet(self) -> bool:
        """Answers the handshake, once it is here."""
        if len(self._received) < wire.HANDSHAKE_BYTES:
            if not wire.is_handshake(self._received):
                raise WireError("another protocol than BitTorrent")
            return False
        handshake = wire.parse_handshake(bytes(self._received[: wire.HANDSHAKE_BYTES]))
        del self._received[: wire.HANDSHAKE_BYTES]
        self.upload = self._owner.admit(self, handshake.infohash)
        self._is_fast = handshake.is_fast
        self._write([wire.handshake(handshake.infohash, self._owner.peer_id)])
        return True

    def _understand(self) -> None:
        upload = self.upload
        assert upload is not None
        new: list[int] = []
        is_changed = False
        for kind, body in wire.cut(self._received, upload.offers.facts.piece_count):
            taker = self._taker
            if self._has_everything:
                return
            if taker is None:
                self._join(upload, kind, body)
                is_changed = True
            elif kind == Kind.HAVE:
                new.append(wire.parse_index(body, upload.offers.facts.piece_count))
            elif kind == Kind.REQUEST:
                self._ask(wire.parse_block(body), upload, taker)
            elif kind == Kind.CANCEL:
                self._cancel(wire.parse_block(body), upload, taker)
            elif kind == Kind.HASH_REQUEST:
                self._write([wire.reject_hashes(body)])
        if new and self._taker is not None and upload.offers.got(self._taker, new):
            self._part(upload)
        if new or is_changed:
            self._owner.changed()

    def _join(self, upload: Upload, kind: int, body: bytes) -> None:
        """Its first message says what it has. Only then it is told what we have: nothing yet, until it is offered."""
        count = upload.offers.facts.piece_count
        has: Collection[int] = ()
        if kind == Kind.BITFIELD:
            has = wire.parse_bitfield(body, count)
        elif kind == Kind.HAVE_ALL:
            has = range(count)
        elif kind == Kind.HAVE:
            has = (wire.parse_index(body, count),)
        if len(has) == count:
            self._has_everything = True
            self._write([wire.HAVE_ALL] if self._is_fast else [wire.have(piece) for piece in range(count)])
            return
        self._write([wire.HAVE_NONE, wire.UNCHOKE] if self._is_fast else [wire.UNCHOKE])
        host = self._owner.host_of(self.address)
        self._taker = upload.offers.join(host, has, lambda piece: self._write([wire.have(piece)]))

    def _part(self, upload: Upload) -> None:
        """It has everything. It hears that we have, too: two seeds have nothing to tell each other, and it lets go."""
        self._has_everything = True
        self._requests.clear()
        self._write([wire.have(piece) for piece in range(upload.offers.facts.piece_count)])

    def _ask(self, block: Block, upload: Upload, taker: Taker) -> None:
        offers = upload.offers
        if block.piece >= offers.facts.piece_count or not 0 < block.length <= wire.MAX_BLOCK_BYTES:
            raise WireError("a request for no block of any piece")
        if block.begin + block.length > offers.piece_bytes(block.piece):
            raise WireError("a request beyond the end of a piece")
        if block in self._requests:
            return
        if len(self._requests) >= _MAX_REQUESTS or not offers.ask(taker, block.piece, block.length):
            self._reject(block)
            return
        self._requests[block] = None
        if self.sending is None:
            self.sending = asyncio.get_running_loop().create_task(self._send(upload, taker))

    def _cancel(self, block: Block, upload: Upload, taker: Taker) -> None:
        if block in self._requests:
            del self._requests[block]
            upload.offers.cancel(taker, block.piece, block.length)
            self._reject(block)

    def _reject(self, block: Block) -> None:
        if self._is_fast:
            self._write([wire.reject(block)])

    async def _send(self, upload: Upload, taker: Taker) -> None:
        try:
            while self._requests:
                blocks: list[Block] = []
                size_bytes = 0
                for block in self._requests:
                    if blocks and size_bytes + block.length > _AT_ONCE_BYTES:
                        break
                    blocks.append(block)
                    size_bytes += block.length
                for block in blocks:
                    del self._requests[block]
                await self._owner.allow(size_bytes)
                async with taker.host.turns, self._owner.turns:  # what is in memory is bounded, for each host and all
                    await self._send_blocks(upload, taker, blocks)
                    self._owner.sent(size_bytes)
                    async with asyncio.timeout(_UNTAKEN_SECONDS):
                        await self._may_write.wait()
        except TimeoutError:
            self._refuse(WireError("it takes nothing of what it asked for", "unread"))
        except StorageError as error:
            upload.failed(error)
        finally:
            self.sending = None

    async def _send_blocks(self, upload: Upload, taker: Taker, blocks: list[Block]) -> None:
        contents = await upload.read(blocks)
        message: list[bytes] = []
        for block, content in zip(blocks, contents, strict=True):
            message += (wire.piece_head(block), content)
            upload.offers.sent(taker, block.piece, block.length)
        self._write(message)

    def _write(self, messages: list[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._sent_at = self._clock()
            self._transport.writelines(messages)
