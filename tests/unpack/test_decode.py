from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import struct
import threading
import zlib
from contextlib import suppress

import pgzip
import pytest
import zstandard

from imagedist.errors import IntegrityError, UnacceptableError
from imagedist.unpack.decode import STEP_BYTES, Chunk, decoder, in_order
from imagedist.unpack.gzip_members import indexed_size
from imagedist.unpack.pieces import Pieces
from imagedist.unpack.spare import SpareCpus
from imagedist.unpack.ways import MAX_MEMBER_BYTES, MAX_PLAIN_BYTES, choose
from imagedist.unpack.zstd_frames import FrameWalk
from tests.support import layers
from tests.support.counts import count

CONTENT = os.urandom(100_000) + bytes(3_000_000) + b"end"


def decode(blob: bytes, compression: str, chunk_bytes: int) -> bytes:
    output = bytearray()

    def sink(plain: Chunk) -> None:
        assert len(plain) <= max(STEP_BYTES, chunk_bytes)
        output.extend(plain)

    decoding = decoder(compression, in_order(sink), "layer x")
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
        decoder("bzip2", in_order(bytes), "layer x")


def pgzip_bytes(content: bytes, block_bytes: int, name: str = "") -> bytes:
    output = io.BytesIO()
    with pgzip.PgzipFile(name, "wb", 6, output, mtime=0, thread=2, blocksize=block_bytes) as file:
        file.write(content)
    return output.getvalue()


@pytest.mark.parametrize("name", ["", "layer.tar"])
@pytest.mark.parametrize("block_bytes", [70_000, 1 << 20, 6 << 20])
def test_what_pgzip_writes_is_inflated_by_many_threads_and_hashed_in_order(block_bytes: int, name: str) -> None:
    content = os.urandom(5_000_000) + bytes(3_000_000) + b"end"
    blob = pgzip_bytes(content, block_bytes, name)
    written, threads, spare = bytearray(len(content)), set(), SpareCpus(4)

    def write_at(offset: int, plain: Chunk) -> None:
        threads.add(threading.get_ident())
        written[offset : offset + len(plain)] = plain

    hasher = hashlib.sha256()
    pieces = Pieces(write_at, hasher, spare)
    decoding = decoder("gzip", pieces.add, "layer x")
    with spare.busy():
        for start in range(0, len(blob), 300_000):
            decoding.feed(memoryview(blob)[start : start + 300_000])
        decoding.finish()
    pieces.settle()
    spare.close()
    assert written == content
    assert hasher.digest() == hashlib.sha256(content).digest()
    assert len(threads) > 1


def test_index_of_pgzip_is_read_and_nothing_else() -> None:
    blob = pgzip_bytes(b"content", 1000)
    assert indexed_size(blob) == len(blob)
    assert indexed_size(gzip.compress(b"content")) is None
    assert indexed_size(blob.replace(b"IG", b"XX", 1)) is None
    assert indexed_size(blob[:16] + struct.pack("<I", 20) + blob[20:]) is None


@pytest.mark.parametrize("change", [-300, -1, 1, 30, 1 << 22, 0xF0000000])
def test_indexed_member_that_lies_about_its_compressed_size_is_never_decoded_wrongly(change: int) -> None:
    blob = bytearray(layers.indexed_gzip(CONTENT))
    struct.pack_into("<I", blob, 16, indexed_size(blob) + change)  # type: ignore[operator]  # it is indexed
    with suppress(IntegrityError):
        assert decode(bytes(blob), "gzip", 65_536) == CONTENT


@pytest.mark.parametrize("plain_bytes", [0, 6, 8, MAX_PLAIN_BYTES, MAX_PLAIN_BYTES + 1, 0xFFFFFFFF])
def test_indexed_member_that_lies_about_its_plain_size_is_an_integrity_error(plain_bytes: int) -> None:
    blob = pgzip_bytes(b"content", 1000)
    with pytest.raises(IntegrityError):
        decode(blob[:-4] + struct.pack("<I", plain_bytes), "gzip", 65_536)


def test_indexed_member_with_a_wrong_crc_is_an_integrity_error() -> None:
    blob = bytearray(pgzip_bytes(b"content", 1000))
    blob[-5] ^= 1
    with pytest.raises(IntegrityError, match="gzip"):
        decode(bytes(blob), "gzip", 65_536)


def test_bomb_in_an_indexed_member_is_streamed_in_steps() -> None:
    assert decode(pgzip_bytes(bytes(40 << 20), 40 << 20), "gzip", 65_536) == bytes(40 << 20)


def test_truncated_indexed_gzip_is_an_integrity_error() -> None:
    blob = layers.indexed_gzip(CONTENT)
    for cut in (1, 9, 30, len(blob) - 25):
        with pytest.raises(IntegrityError, match="truncated"):
            decode(blob[:-cut], "gzip", 65_536)


def test_indexed_and_ordinary_members_mix() -> None:
    blob = gzip.compress(b"first") + layers.indexed_gzip(b"second") + gzip.compress(b"third") + gzip.compress(b"")
    for chunk_bytes in (1, 7, 1000):
        assert decode(blob, "gzip", chunk_bytes) == b"firstsecondthird"


def test_many_tiny_members_do_not_copy_each_other() -> None:
    member = gzip.compress(b"")
    assert decode(member * 100_000, "gzip", 1 << 20) == b""


@pytest.mark.parametrize("chunk_bytes", [1, 65_536])
@pytest.mark.parametrize("level", [-5, 3, 19])
def test_zstd_cut_anywhere_is_an_integrity_error(level: int, chunk_bytes: int) -> None:
    content = os.urandom(1000) + bytes(200_000) + b"end"
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=False)
    frame = compressor.compress(content)
    blob = frame + struct.pack("<II", 0x184D2A5F, 5) + b"aside" + frame
    assert decode(blob, "zstd", chunk_bytes) == content * 2
    for cut in (1, 4, 5, 100, len(frame) - 1, len(frame) + 3, len(frame) + 9):
        with pytest.raises(IntegrityError, match="truncated"):
            decode(blob[:-cut], "zstd", chunk_bytes)


def test_zstd_frames_are_walked_as_the_library_writes_them() -> None:
    for size in (0, 1, 300, 70_000, 300_000):
        for content in (os.urandom(size), bytes(size)):
            for has_size, has_checksum in ((False, False), (True, False), (True, True)):
                frame = zstandard.ZstdCompressor(write_content_size=has_size, write_checksum=has_checksum).compress(
                    content
                )
                walk = FrameWalk()
                for position in range(len(frame)):
                    assert walk.is_between_frames == (position == 0)
                    walk.feed(frame[position : position + 1])
                assert walk.is_between_frames


def test_windows_of_zstd_frames_are_told_as_the_library_reads_them() -> None:
    for window_log in (10, 17, 23, 27):
        for size, has_size in ((0, True), (300, True), (70_000, True), (300_000, True), (300_000, False)):
            parameters = zstandard.ZstdCompressionParameters.from_level(
                1, window_log=window_log, write_content_size=has_size
            )
            compressor = zstandard.ZstdCompressor(compression_params=parameters)
            with_size = compressor.compressobj(size=size) if has_size else compressor.compressobj()
            frame = with_size.compress(bytes(size)) + with_size.flush()
            told: list[int] = []
            FrameWalk(told.append).feed(frame)
            read = zstandard.get_frame_parameters(frame)
            assert told == [min(read.window_size, size) if has_size else read.window_size]


@pytest.mark.prove
@pytest.mark.parametrize("made", ["gzip", "gzip members", "indexed gzip"])
def test_changed_gzip_is_never_decoded_wrongly(made: str) -> None:
    source = random.Random(made)
    content = source.randbytes(3000) + bytes(20_000)
    blob = layers.gzip_members(content, 5000) if made == "gzip members" else layers.compress(content, made)
    if made == "indexed gzip":
        blob = layers.indexed_gzip(content, 5000)
    for _ in range(count(500, 20_000)):
        changed = bytearray(blob)
        for _ in range(source.randint(1, 3)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        changed = changed[: source.randint(1, len(changed)) if source.random() < 0.2 else None]
        with suppress(IntegrityError):
            assert content.startswith(decode(bytes(changed), "gzip", source.choice([100, 5000, 100_000])))


def test_decoder_is_chosen_by_compression_and_by_what_a_member_says_of_itself() -> None:
    assert choose("none") == "copy"
    assert choose("zstd") == "zstd"
    assert choose("gzip") == "stream"
    assert choose("gzip", 1000) == "member"
    assert choose("gzip", MAX_MEMBER_BYTES, MAX_PLAIN_BYTES) == "member"
    assert choose("gzip", MAX_MEMBER_BYTES + 1) == "stream"
    assert choose("gzip", 1000, MAX_PLAIN_BYTES + 1) == "stream"
    assert choose("bzip2") is None
