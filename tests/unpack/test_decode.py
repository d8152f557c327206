from __future__ import annotations

import gzip
import os
import zlib

import pytest

from imagedist.errors import IntegrityError, UnacceptableError
from imagedist.unpack.decode import STEP_BYTES, Chunk, decoder
from tests.support import layers

CONTENT = os.urandom(100_000) + bytes(3_000_000) + b"end"


def decode(blob: bytes, compression: str, chunk_bytes: int) -> bytes:
    output = bytearray()

    def sink(plain: Chunk) -> None:
        assert len(plain) <= max(STEP_BYTES, chunk_bytes)
        output.extend(plain)

    decoding = decoder(compression, sink, "layer x")
    for start in range(0, len(blob), chunk_bytes):
        decoding.feed(memoryview(blob)[start : start + chunk_bytes])
    decoding.finish()
    return bytes(output)


@pytest.mark.parametrize("chunk_bytes", [997, 65_536, 10_000_000])
@pytest.mark.parametrize("made", ["none", "gzip", "gzip members", "indexed gzip", "zstd"])
def test_every_compression_decodes_in_steps_whatever_the_chunks(made: str, chunk_bytes: int) -> None:
    compression = "gzip" if "gzip" in made else made
    assert decode(layers.compress(CONTENT, made), compression, chunk_bytes) == CONTENT


def test_truncated_gzip_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="truncated"):
        decode(gzip.compress(CONTENT)[:-5], "gzip", 65_536)


def test_gzip_cut_between_header_and_body_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="truncated"):
        decode(gzip.compress(CONTENT)[:10], "gzip", 65_536)


@pytest.mark.parametrize("chunk_bytes", [1, 65_536])
def test_garbage_after_the_last_gzip_member_is_an_integrity_error(chunk_bytes: int) -> None:
    with pytest.raises(IntegrityError):
        decode(gzip.compress(b"short") + b"garbage that is no gzip", "gzip", chunk_bytes)


def test_wrong_gzip_crc_is_an_integrity_error() -> None:
    blob = bytearray(gzip.compress(b"content"))
    blob[-5] ^= 1
    with pytest.raises(IntegrityError, match="gzip"):
        decode(bytes(blob), "gzip", 65_536)


def test_deflate_without_gzip_header_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError):
        decode(zlib.compress(b"content" * 100), "gzip", 65_536)


def test_corrupt_zstd_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="zstd"):
        decode(layers.zstd_frames(CONTENT) + b"garbage", "zstd", 65_536)


def test_unknown_compression_is_unacceptable() -> None:
    with pytest.raises(UnacceptableError, match="bzip2"):
        decoder("bzip2", lambda plain: None, "layer x")
