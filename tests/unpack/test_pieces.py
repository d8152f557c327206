from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator

import pytest

from imagedist.unpack import pieces
from imagedist.unpack.pieces import Chunk, Pieces
from imagedist.unpack.spare import SpareCpus

PIECE = 100_000


class Written:
    """What was written where, by whatever thread."""

    def __init__(self) -> None:
        self.by_offset: dict[int, bytes] = {}

    def __call__(self, offset: int, plain: Chunk) -> None:
        self.by_offset[offset] = bytes(plain)

    def content(self) -> bytes:
        return b"".join(self.by_offset[offset] for offset in sorted(self.by_offset))


@pytest.fixture
def spare() -> Iterator[SpareCpus]:
    spare = SpareCpus(4)
    yield spare
    spare.close()


def test_pieces_made_in_any_order_are_hashed_in_theirs(spare: SpareCpus) -> None:
    content = random.Random(1).randbytes(200 * PIECE)
    written, hasher = Written(), hashlib.sha256()
    placing = Pieces(written, hasher, spare)
    for start in range(0, len(content), PIECE):
        placing.add(PIECE, lambda start=start: content[start : start + PIECE])  # type: ignore[misc]  # a bound default
    placing.settle()
    assert written.content() == content
    assert hasher.digest() == hashlib.sha256(content).digest()
    assert placing.contiguous_bytes == len(content)


def test_what_comes_after_a_gap_is_not_contiguous(spare: SpareCpus) -> None:
    gate, second = threading.Event(), threading.Event()

    def late() -> bytes:
        gate.wait()
        return b"a" * PIECE

    def early() -> bytes:
        second.set()
        return b"b" * PIECE

    placing = Pieces(Written(), hashlib.sha256(), spare)
    placing.add(PIECE, late)
    placing.add(PIECE, early)
    second.wait()
    assert placing.contiguous_bytes == 0
    gate.set()
    placing.settle()
    assert placing.contiguous_bytes == 2 * PIECE


def test_pieces_behind_a_slow_one_wait_when_they_are_many(spare: SpareCpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_WAITING_BYTES", 3 * PIECE)
    gate, written = threading.Event(), Written()

    def late() -> bytes:
        gate.wait()
        return bytes(PIECE)

    placing = Pieces(written, hashlib.sha256(), spare)
    placing.add(PIECE, late)
    adding = threading.Thread(target=lambda: [placing.add(PIECE, lambda: bytes(PIECE)) for _ in range(50)])
    adding.start()
    while len(written.by_offset) < 7:  # three that wait, and one in each thread but the slow one's
        adding.join(0.001)
    assert len(written.by_offset) == 7
    assert adding.is_alive()
    gate.set()
    adding.join()
    placing.settle()
    assert placing.contiguous_bytes == 51 * PIECE


@pytest.mark.parametrize("size_bytes", [10, PIECE])
def test_failure_of_a_piece_is_told_to_who_adds(spare: SpareCpus, size_bytes: int) -> None:
    def failing() -> bytes:
        raise ValueError("this piece")

    placing = Pieces(Written(), hashlib.sha256(), spare)

    def add() -> None:
        placing.add(size_bytes, failing)
        placing.settle()

    with pytest.raises(ValueError, match="this piece"):
        add()
    with pytest.raises(ValueError, match="this piece"):
        placing.add(size_bytes, lambda: bytes(size_bytes))


def test_failure_releases_those_who_wait_for_their_turn(spare: SpareCpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_WAITING_BYTES", PIECE)
    gate = threading.Event()

    def failing() -> bytes:
        gate.wait()
        raise ValueError("this piece")

    placing = Pieces(Written(), hashlib.sha256(), spare)
    placing.add(PIECE, failing)
    caught: list[BaseException] = []

    def add() -> None:
        try:
            for _ in range(10):
                placing.add(PIECE, lambda: bytes(PIECE))
        except ValueError as error:
            caught.append(error)

    adding = threading.Thread(target=add)
    adding.start()
    gate.set()
    adding.join()
    with pytest.raises(ValueError, match="this piece"):
        placing.settle()


def test_stopped_pieces_are_over_when_stop_returns(spare: SpareCpus) -> None:
    written = Written()
    placing = Pieces(written, hashlib.sha256(), spare)
    for _ in range(20):
        placing.add(PIECE, lambda: bytes(PIECE))
    placing.stop(ValueError("aborted"))
    count = len(written.by_offset)
    with pytest.raises(ValueError, match="aborted"):
        placing.add(PIECE, lambda: bytes(PIECE))
    assert len(written.by_offset) == count
