"""Builders of sparse tar members in the four forms that GNU tar writes, honest and lying."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence

Extents = Sequence[tuple[int, int]]
FORMS = ("old", "0.0", "0.1", "1.0")
_SEEN_NAME = "GNUSparseFile.1/f"


def content(size_bytes: int, extents: Extents, stored: bytes) -> bytes:
    """What the file must hold."""
    whole, position = bytearray(size_bytes), 0
    for offset, length in extents:
        whole[offset : offset + length] = stored[position : position + length]
        position += length
    return bytes(whole)


def member(form: str, name: str, size_bytes: int, extents: Extents, stored: bytes) -> bytes:
    """Headers and content of one member; put ``END`` behind the last."""
    if form == "old":
        return _old(name, size_bytes, extents, stored)
    flat = [number for extent in extents for number in extent]
    records: list[tuple[str, str]]
    if form == "0.0":
        records = [("GNU.sparse.size", str(size_bytes)), ("GNU.sparse.numblocks", str(len(extents)))]
        for offset, length in extents:
            records += [("GNU.sparse.offset", str(offset)), ("GNU.sparse.numbytes", str(length))]
        return pax(records) + _header(name, len(stored)) + _padded(stored)
    if form == "0.1":
        records = [("GNU.sparse.size", str(size_bytes)), ("GNU.sparse.numblocks", str(len(extents)))]
        records += [("GNU.sparse.map", ",".join(map(str, flat))), ("GNU.sparse.name", name)]
        return pax(records) + _header(_SEEN_NAME, len(stored)) + _padded(stored)
    listed = _padded("".join(f"{number}\n" for number in (len(extents), *flat)).encode())
    records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]
    records += [("GNU.sparse.name", name), ("GNU.sparse.realsize", str(size_bytes))]
    return pax(records) + _header(_SEEN_NAME, len(listed) + len(stored)) + listed + _padded(stored)


END = bytes(2 * tarfile.BLOCKSIZE)


def pax(records: Sequence[tuple[str, str]]) -> bytes:
    """An extended header of these records, in order, repeated keys and all."""
    body = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        body += str(length).encode() + rest
    header = tarfile.TarInfo("PaxHeaders/f")
    header.type, header.size = tarfile.XHDTYPE, len(body)
    return header.tobuf(tarfile.USTAR_FORMAT) + _padded(body)


def _header(name: str, size_bytes: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mtime = size_bytes, 1_700_000_000
    return header.tobuf(tarfile.USTAR_FORMAT)


def _old(name: str, size_bytes: int, extents: Extents, stored: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.size, header.mtime = tarfile.GNUTYPE_SPARSE, len(stored), 1_700_000_000
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    pairs = [_octal(offset) + _octal(length) for offset, length in extents]
    first, rest = b"".join(pairs[:4]), pairs[4:]
    block[386 : 386 + len(first)] = first
    block[482] = bool(rest)
    block[483:495] = _octal(size_bytes)
    continued = b""
    while rest:
        here, rest = b"".join(rest[:21]), rest[21:]
        continued += here.ljust(504, b"\0") + bytes([bool(rest)]) + bytes(7)
    return sealed(block) + continued + _padded(stored)


def sealed(header: bytearray) -> bytes:
    """The header with its checksum made right."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _octal(number: int) -> bytes:
    if number < 0:
        return b"\xff" + (number & (1 << 88) - 1).to_bytes(11, "big")
    return b"%011o\0" % number


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)
