from __future__ import annotations

import mmap
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from imagedist.errors import StorageError
from imagedist.unpack.entries import Entries
from imagedist.unpack.extract import Extraction, extract_jobs
from imagedist.unpack.limits import DEFAULTS
from imagedist.unpack.ordinary import Job
from imagedist.unpack.ring import Ring
from imagedist.unpack.window import BUFFER_BYTES, NotYet, StagedTar, Window
from tests.support import layers

CONTENT = random.Random(1).randbytes(1_000_000)


def write(ring: Ring, start: int, end: int, content: bytes = CONTENT) -> None:
    while start < end:
        start += ring.write(start, memoryview(content)[start:end])


def read(tar: StagedTar, start: int, end: int, buffer_bytes: int = BUFFER_BYTES) -> bytes:
    with closing(Window(tar, memoryview(bytearray(buffer_bytes)))) as window:
        window.extend(end, is_whole=False)
        return bytes(window[start:end])


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    with closing(Ring(tmp_path / "staged", 10_000)) as ring:
        yield ring
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("buffer_bytes", [3000, 100_000])
def test_bytes_that_lie_around_the_end_of_the_ring_are_read_in_one(ring: Ring, buffer_bytes: int) -> None:
    for start in range(0, len(CONTENT), 5000):
        write(ring, start, start + 5000)
        first = max(0, start - 4999)
        assert read(ring.tar, first, start + 5000, buffer_bytes) == CONTENT[first : start + 5000]
    assert ring.tar.path.stat().st_size == 10_000


def test_window_reads_ahead_no_further_than_the_tar_has_arrived(ring: Ring) -> None:
    write(ring, 0, 14_000)
    with closing(Window(ring.tar, memoryview(bytearray(BUFFER_BYTES)))) as window:
        window.extend(12_000, is_whole=False)
        assert window[5000:5100] == CONTENT[5000:5100]
        assert window.at_hand(5000) == CONTENT[5000:10_000]  # there the ring closes
        assert window.at_hand(10_000, fresh=True) == CONTENT[10_000:12_000]
        with pytest.raises(NotYet):
            window[11_000:12_001]


def test_tar_that_somebody_cut_off_is_an_error(ring: Ring) -> None:
    write(ring, 0, 9000)
    ring.tar.path.write_bytes(b"")
    with pytest.raises(StorageError, match="cut off before byte 10000"):
        read(ring.tar, 5000, 6000)


@pytest.mark.parametrize("start", [0, 4000, 10_000, 13_000, 20_000, 27_000])
@pytest.mark.parametrize("size_bytes", [0, 1, 6000, 10_000])
def test_ring_twice_as_big_has_the_bytes_in_use_in_the_old_places_and_the_new(
    ring: Ring, start: int, size_bytes: int
) -> None:
    end = start + size_bytes
    write(ring, max(0, start - 10_000), start)
    write(ring, start, end)
    before = ring.tar
    ring.double(start, end)
    for tar in (before, ring.tar):
        assert read(tar, start, end) == CONTENT[start:end]
    write(ring, end, start + 20_000)
    assert read(ring.tar, start, start + 20_000) == CONTENT[start : start + 20_000]


@pytest.mark.parametrize("seed", range(20))
def test_ring_that_goes_on_after_it_was_doubled_has_every_byte_and_is_mapped_only_when_it_has_no_hole(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    consumed = written = 0
    doubled_at = {chance.randrange(len(CONTENT)) for _ in range(3)}
    with closing(Ring(tmp_path / "staged", 4 * mmap.PAGESIZE)) as ring:
        while written < len(CONTENT):
            end = min(len(CONTENT), written + chance.randint(1, ring.tar.ring_bytes), consumed + ring.tar.ring_bytes)
            write(ring, written, end)
            if ring._map is not None:
                assert ring.tar.path.stat().st_blocks * 512 == ring.tar.ring_bytes
            written = end
            assert read(ring.tar, consumed, written) == CONTENT[consumed:written]
            if any(consumed < place <= written for place in doubled_at) and ring.tar.ring_bytes < 1 << 19:
                ring.double(consumed, written)
                assert read(ring.tar, consumed, written) == CONTENT[consumed:written]
            consumed = chance.randint(consumed, written)


def test_bytes_in_use_are_copied_to_their_own_places(ring: Ring, tmp_path: Path) -> None:
    write(ring, 0, 33_000)
    with closing(Ring(tmp_path / "other")) as other:
        ring.copy_to(other, 25_000, 33_000)
        assert read(other.tar, 25_000, 33_000) == CONTENT[25_000:33_000]


def test_header_and_file_that_lie_around_the_end_of_the_ring_are_extracted(tmp_path: Path) -> None:
    """Every place of the end, in steps of half a header: in headers, in long names, in files, in padding."""
    members = [layers.file("f" * 150, b"1" * 700), layers.file("small", b"2" * 100), layers.file("more", b"3" * 1500)]
    tar = layers.tar(members).rstrip(b"\0") + bytes(2000)  # its end fits as well
    tar = tar[: len(tar) // 512 * 512]
    for ring_bytes in range(4096, 9000, 256):
        target = tmp_path / str(ring_bytes)
        target.mkdir()
        with closing(Ring(target / "staged", ring_bytes)) as ring:
            extraction = Extraction(ring.tar, target, DEFAULTS, memoryview(bytearray(BUFFER_BYTES)))
            available = 0
            while not extraction.is_ended:
                end = min(len(tar), extraction.position + ring_bytes)
                write(ring, available, end, tar)
                extraction.advance(end, end == len(tar))
                available = end
            extraction.finish()
            extraction.close()
        for member in members:
            assert (target / "diff" / member.name).read_bytes() == member.content


def test_shared_file_that_lies_around_the_end_of_the_ring_is_made_by_another(tmp_path: Path) -> None:
    tar = layers.tar([layers.file("before", b"1" * 5000), layers.file("shared", CONTENT[:6000])])
    (tmp_path / "whole").write_bytes(tar)
    with closing(Window(StagedTar(tmp_path / "whole"), memoryview(bytearray(BUFFER_BYTES)))) as window:
        window.extend(len(tar), is_whole=True)
        entry = next(entry for entry in Entries(window, DEFAULTS) if entry.name == "shared")
    (tmp_path / "diff").mkdir()
    with closing(Ring(tmp_path / "staged", 7000)) as ring:
        write(ring, entry.offset, entry.offset + 6000, tar)
        assert entry.offset // 7000 != (entry.offset + 6000) // 7000
        jobs: list[Job] = [(("shared",), entry)]
        extract_jobs(ring.tar, entry.offset + 6000, tmp_path, jobs, DEFAULTS)
    assert (tmp_path / "diff/shared").read_bytes() == CONTENT[:6000]
