"""BitTorrent's messages between peers by hand (BEP 3, 6, 10, 52): for saying what no library would say."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

PROTOCOL = b"\x13BitTorrent protocol"
HANDSHAKE_BYTES = 68
_V2 = b"\0\0\0\0\0\0\0\x10"
"""The reserved bit of a peer that speaks v2 (BEP 52)."""
PEER_ID = b"-XX0001-by-our-hands"

CHOKE, UNCHOKE, INTERESTED, HAVE, BITFIELD, REQUEST, PIECE, CANCEL = 0, 1, 2, 4, 5, 6, 7, 8
HASH_REQUEST, HASHES, HASH_REJECT = 21, 22, 23


def handshake(short_infohash: bytes, peer_id: bytes = PEER_ID) -> bytes:
    return PROTOCOL + _V2 + short_infohash + peer_id


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IB", 1 + len(payload), kind) + payload


def have_all(piece_count: int) -> bytes:
    """The bitfield of a seed; its last byte's spare bits are zero."""
    whole, rest = divmod(piece_count, 8)
    return message(BITFIELD, b"\xff" * whole + (bytes([0xFF << (8 - rest) & 0xFF]) if rest else b""))


class Wire:
    """One connection. Every wait has a bound.

    Args:
        connected: the socket; it is closed with the block.
    """

    def __init__(self, connected: socket.socket, timeout_seconds: float = 30.0) -> None:
        self._socket = connected
        connected.settimeout(timeout_seconds)

    @classmethod
    def to(cls, peer: tuple[str, int], own_host: str | None = None, timeout_seconds: float = 30.0) -> Self:
        own = (own_host, 0) if own_host else None
        return cls(socket.create_connection(peer, timeout_seconds, own), timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def say(self, *parts: bytes) -> None:
        """Raises OSError: the peer has hung up."""
        self._socket.sendall(b"".join(parts))

    def hear(self, size_bytes: int) -> bytes:
        """So many bytes. Raises OSError: the peer has hung up, or is silent."""
        heard = bytearray()
        while len(heard) < size_bytes:
            part = self._socket.recv(size_bytes - len(heard))
            if not part:
                raise ConnectionResetError("the peer has hung up")
            heard += part
        return bytes(heard)

    def hear_message(self) -> tuple[int | None, bytes]:
        """Kind and payload; None: a sign of life. Raises as ``hear``."""
        size_bytes = int.from_bytes(self.hear(4), "big")
        body = self.hear(size_bytes)
        return (body[0], body[1:]) if body else (None, b"")

    def hears_the_end(self) -> bool:
        """Reads until the peer hangs up. False: it was on the line and silent for the whole time-out."""
        try:
            while self._socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True
