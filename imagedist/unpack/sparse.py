"""Maps of GNU sparse files, in the four forms that tars have.

Source: GNU tar manual, appendix "Sparse Formats"; which of them wins where several could be meant, and what is refused,
is as in Go's archive/tar, which podman, containerd, docker and umoci read layers with. Every map is hostile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from imagedist.errors import UnacceptableError
from imagedist.unpack.limits import MAX_EXTENTS, MAX_SPARSE_BYTES
from imagedist.unpack.numbers import decimal, number

_BLOCK_BYTES = 512
_OLD_GNU_MAGIC = b"ustar  \0"
_PAIR_BYTES = 24
_PREFIX = "GNU.sparse."
_MAX_LINE_BYTES = 21  # a 64-bit number and its newline


class Tar(Protocol):
    """The bytes of a tar: a memoryview, or a window on one that still grows."""

    def __len__(self) -> int: ...
    def __getitem__(self, span: slice, /) -> memoryview | bytes: ...


@dataclass(frozen=True, slots=True)
class Sparse:
    """Where the bytes of a sparse file belong.

    Attributes:
        size_bytes: of the file with its holes.
        extents: (place in the file, length) in rising order, none overlapping another or ending behind the size; in
            the tar they lie one after the other.
    """

    size_bytes: int
    extents: tuple[tuple[int, int], ...]


Stored = tuple[Sparse, int, int]
"""The map, where the stored bytes begin in the tar, and where they end."""


def is_sparse(records: Mapping[str, bytes]) -> bool:
    """Whether pax records say that the member is sparse, in one of the forms 0.0, 0.1 and 1.0."""
    version = records.get(f"{_PREFIX}major", b""), records.get(f"{_PREFIX}minor", b"")
    if version == (b"", b""):
        return bool(records.get(f"{_PREFIX}map"))
    return version in ((b"0", b"0"), (b"0", b"1"), (b"1", b"0"))


def old_gnu(tar: Tar, position: int, stored_bytes: int, _records: Mapping[str, bytes], about: str) -> Stored:
    """Type ``S``: four extents in the header at ``position``, 21 in each block that continues it."""
    header = bytes(tar[position : position + _BLOCK_BYTES])
    if header[257:265] != _OLD_GNU_MAGIC:
        _refuse(about, "is marked sparse but not in GNU's form")
    extents: list[tuple[int, int]] = []
    block, pairs, is_extended = header[386:482], 4, header[482] != 0
    content = position + _BLOCK_BYTES
    while True:
        for start in range(0, pairs * _PAIR_BYTES, _PAIR_BYTES):
            if block[start] == 0:
                break
            extents.append((number(block[start : start + 12]), number(block[start + 12 : start + _PAIR_BYTES])))
        if not is_extended:
            return _checked(number(header[483:495]), extents, content, content + stored_bytes, about)
        if len(extents) > MAX_EXTENTS or content + _BLOCK_BYTES > len(tar):
            _refuse(about, f"has a sparse map that is cut off or has more than {MAX_EXTENTS} extents")
        block, pairs = bytes(tar[content : content + _BLOCK_BYTES]), 21
        is_extended = block[504] != 0
        content += _BLOCK_BYTES


def pax(tar: Tar, position: int, stored_bytes: int, records: Mapping[str, bytes], about: str) -> Stored:
    """Forms 0.0 and 0.1 (a list in the records; ``records`` joins 0.0's pairs) and 1.0 (a list before the content)."""
    content = position + _BLOCK_BYTES
    size = records.get(f"{_PREFIX}size") or records.get(f"{_PREFIX}realsize")
    size_bytes = decimal(size, "GNU.sparse.size") if size else stored_bytes
    end = content + stored_bytes
    if records.get(f"{_PREFIX}major") == b"1":
        numbers, content = _list_before_content(tar, content, end, about)
    else:
        listed = records.get(f"{_PREFIX}map", b"")
        if listed.count(b",") >= 2 * MAX_EXTENTS:
            _refuse(about, f"has more than {MAX_EXTENTS} sparse extents")
        numbers = [decimal(part, "GNU.sparse.map") for part in listed.split(b",")] if listed else []
        if len(numbers) != 2 * decimal(records.get(f"{_PREFIX}numblocks", b"0"), "GNU.sparse.numblocks"):
            _refuse(about, "has a sparse map of another length than it says")
    return _checked(size_bytes, list(zip(numbers[::2], numbers[1::2], strict=True)), content, end, about)


def _list_before_content(tar: Tar, start: int, end: int, about: str) -> tuple[list[int], int]:
    """A decimal per line, how many pairs first, in whole blocks. Returns them and where the content begins."""
    text, position = b"", start

    def line() -> int:
        nonlocal text, position
        while b"\n" not in text:
            if position + _BLOCK_BYTES > end or len(text) > _MAX_LINE_BYTES:
                _refuse(about, "has a sparse map that is cut off")
            text += bytes(tar[position : position + _BLOCK_BYTES])
            position += _BLOCK_BYTES
        digits, _, text = text.partition(b"\n")
        return decimal(digits, "sparse map entry")

    pairs = line()
    if pairs > MAX_EXTENTS:
        _refuse(about, f"has more than {MAX_EXTENTS} sparse extents")
    return [line() for _ in range(2 * pairs)], position


def _checked(size_bytes: int, extents: Sequence[tuple[int, int]], content: int, end: int, about: str) -> Stored:
    if not 0 <= size_bytes <= MAX_SPARSE_BYTES:
        _refuse(about, f"has an apparent size of {size_bytes} bytes")
    if len(extents) > MAX_EXTENTS:
        _refuse(about, f"has more than {MAX_EXTENTS} sparse extents")
    position = total_bytes = 0
    for offset, length in extents:
        if offset < position or length < 0 or offset + length > size_bytes:
            _refuse(about, "has sparse extents that overlap, go back or end behind the file")
        position = offset + length
        total_bytes += length
    if total_bytes != end - content:
        _refuse(about, f"has a sparse map of {total_bytes} bytes and stores {end - content}")
    return Sparse(size_bytes, tuple(extents)), content, end


def _refuse(about: str, what: str) -> NoReturn:
    raise UnacceptableError(f"malformed layer: {about!r} {what}; build the image again")
