"""A peer's messages are read as hostile input."""

from __future__ import annotations

import pytest

from seeder.uploads import wire
from seeder.uploads.wire import Block, Kind, WireError

INFOHASH, PEER_ID = bytes(range(20)), b"-IDs001-............"


def test_a_handshake_is_read_as_it_is_written() -> None:
    written = wire.handshake(INFOHASH, PEER_ID)
    assert len(written) == wire.HANDSHAKE_BYTES
    assert wire.parse_handshake(written) == wire.Handshake(INFOHASH, is_fast=True)


def test_another_protocol_is_told_by_its_first_bytes() -> None:
    assert wire.is_handshake(b"\x13Bit")
    assert not wire.is_handshake(b"GET / HTTP/1.1")


def test_messages_are_cut_off_as_they_become_whole() -> None:
    received = bytearray(wire.KEEP_ALIVE + wire.have(7) + wire.UNCHOKE)
    rest = wire.have(8)
    received += rest[:6]
    assert wire.cut(received, 10) == [(Kind.HAVE, (7).to_bytes(4, "big")), (Kind.UNCHOKE, b"")]
    assert received == rest[:6]
    received += rest[6:]
    assert wire.cut(received, 10) == [(Kind.HAVE, (8).to_bytes(4, "big"))]


def test_a_message_longer_than_any_to_a_seed_is_refused_before_it_has_come() -> None:
    with pytest.raises(WireError, match="a message of 1048576 bytes"):
        wire.cut(bytearray((1 << 20).to_bytes(4, "big")), 100)
    assert wire.cut(bytearray((12_501).to_bytes(4, "big")), 100_000) == []  # a bitfield of so many pieces


@pytest.mark.parametrize("body", [b"", b"\xff", b"\xff\xe0\x00", b"\xff\xff"])
def test_a_bitfield_of_another_length_or_with_spare_bits_is_refused(body: bytes) -> None:
    with pytest.raises(WireError, match="bitfield"):
        wire.parse_bitfield(body, 11)


def test_a_bitfield_names_pieces_from_its_highest_bit_on() -> None:
    assert wire.parse_bitfield(b"\x81\x20", 11) == [0, 7, 10]


def test_a_piece_that_is_none_and_a_request_of_another_length_are_malformed() -> None:
    assert wire.parse_index((9).to_bytes(4, "big"), 10) == 9
    for body in ((10).to_bytes(4, "big"), b"\0\0\0"):
        with pytest.raises(WireError, match="a piece that is none"):
            wire.parse_index(body, 10)
    with pytest.raises(WireError, match="another length"):
        wire.parse_block(bytes(11))
    rejected = wire.reject(Block(1, 2, 3))
    assert wire.cut(bytearray(rejected), 10) == [(Kind.REJECT, rejected[5:])]
    assert wire.parse_block(rejected[5:]) == Block(1, 2, 3)
