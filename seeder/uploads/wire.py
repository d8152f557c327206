"""The messages of a peer connection, as far as a seed needs them (BEP 3, fast extension BEP 6, v2 BEP 52). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from imagedist.errors import InputError

HANDSHAKE_BYTES = 68
MAX_BLOCK_BYTES = 128 << 10
"""Of one request. Ours ask for 16 KiB; BEP 3 lets a seed drop whoever asks for more than 128."""

_PROTOCOL = b"\x13BitTorrent protocol"
_OURS = bytes((0, 0, 0, 0, 0, 0, 0, 0x10 | 0x04))
"""Reserved bits: v2, and the fast extension. No extension protocol: nothing in it is for a private torrent of ours."""
_FAST = 0x04
_LENGTH = struct.Struct(">I")
_INDEX = struct.Struct(">IBI")
_BLOCK = struct.Struct(">III")
_REQUEST = struct.Struct(">IBIII")
_PIECE = struct.Struct(">IBII")
_OTHER_BYTES = 1 << 12
"""Longest message but a bitfield. An extension handshake that ignores our bits would be some hundred bytes."""


class WireError(InputError):
    """A peer that is not served; its connection ends. ``reason`` is the label under which it is counted."""

    def __init__(self, message: str, reason: str = "malformed") -> None:
        super().__init__(f"peer refused: {message}")
        self.reason = reason


class Kind(IntEnum):
    CHOKE = 0
    UNCHOKE = 1
    INTERESTED = 2
    NOT_INTERESTED = 3
    HAVE = 4
    BITFIELD = 5
    REQUEST = 6
    PIECE = 7
    CANCEL = 8
    HAVE_ALL = 14
    HAVE_NONE = 15
    REJECT = 16
    HASH_REQUEST = 21
    HASHES = 22
    HASH_REJECT = 23


@dataclass(frozen=True, slots=True)
class Block:
    """What a request, a cancel or a reject names."""

    piece: int
    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class Handshake:
    """``infohash``: 20 bytes, truncated in v2. ``is_fast``: the peer takes ``HAVE_NONE`` and rejections."""

    infohash: bytes
    is_fast: bool


KEEP_ALIVE = bytes(4)
UNCHOKE = _LENGTH.pack(1) + bytes((Kind.UNCHOKE,))
HAVE_ALL = _LENGTH.pack(1) + bytes((Kind.HAVE_ALL,))
HAVE_NONE = _LENGTH.pack(1) + bytes((Kind.HAVE_NONE,))


def handshake(infohash: bytes, peer_id: bytes) -> bytes:
    return _PROTOCOL + _OURS + infohash + peer_id


def is_handshake(received: bytes | bytearray) -> bool:
    """Whether this is one of BitTorrent's as far as it came."""
    return _PROTOCOL.startswith(bytes(received[: len(_PROTOCOL)]))


def parse_handshake(received: bytes) -> Handshake:
    """Reads ``HANDSHAKE_BYTES``. Raises WireError: not one of BitTorrent's (an encrypted one, for example)."""
    if not received.startswith(_PROTOCOL):
        raise WireError("another protocol than BitTorrent")
    reserved = received[20:28]
    return Handshake(received[28:48], bool(reserved[7] & _FAST))


def have(piece: int) -> bytes:
    return _INDEX.pack(5, Kind.HAVE, piece)


def reject(block: Block) -> bytes:
    return _REQUEST.pack(13, Kind.REJECT, block.piece, block.begin, block.length)


def reject_hashes(asked: bytes) -> bytes:
    """No hashes: the piece layers are in the torrent, and blocks' hashes only tell which of two peers lied."""
    return _LENGTH.pack(len(asked) + 1) + bytes((Kind.HASH_REJECT,)) + asked


def piece_head(block: Block) -> bytes:
    """Comes before the block's bytes."""
    return _PIECE.pack(9 + block.length, Kind.PIECE, block.piece, block.begin)


def parse_index(body: bytes, piece_count: int) -> int:
    """Of a have. Raises WireError."""
    if len(body) != 4 or (index := int.from_bytes(body, "big")) >= piece_count:
        raise WireError("it has a piece that is none")
    return index


def parse_block(body: bytes) -> Block:
    """Of a request or a cancel. Raises WireError."""
    if len(body) != _BLOCK.size:
        raise WireError("a request of another length")
    return Block(*_BLOCK.unpack(body))


def parse_bitfield(body: bytes, piece_count: int) -> list[int]:
    """The pieces that the peer has. Raises WireError: too short, too long, or spare bits set."""
    if len(body) != -(-piece_count // 8):
        raise WireError("a bitfield of another torrent")
    bits = int.from_bytes(body, "big")
    spare = len(body) * 8 - piece_count
    if bits & ((1 << spare) - 1):
        raise WireError("a bitfield with spare bits set")
    text = f"{bits >> spare:0{piece_count}b}"
    return [index for index, bit in enumerate(text) if bit == "1"]


def cut(received: bytearray, piece_count: int) -> list[tuple[int, bytes]]:
    """Takes the whole messages off the front: kind and body of each; keep-alives are dropped.

    Raises:
        WireError: one is longer than any that a peer may send to a seed.
    """
    messages: list[tuple[int, bytes]] = []
    longest = max(_OTHER_BYTES, -(-piece_count // 8) + 1)
    at, end = 0, len(received)
    while end - at >= 4:
        (length,) = _LENGTH.unpack_from(received, at)
        if length > longest:
            raise WireError(f"a message of {length} bytes")
        if end - at - 4 < length:
            break
        if length:
            messages.append((received[at + 4], bytes(received[at + 5 : at + 4 + length])))
        at += 4 + length
    del received[:at]
    return messages
