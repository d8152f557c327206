"""One pass over the headers of a staged tar: ustar, GNU long names, pax (POSIX.1-2017 pax, GNU tar manual)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from imagedist.errors import UnacceptableError

BLOCK_BYTES = 512
_EXTENSION_LIMIT_BYTES = 1 << 20
_MAX_ENTRIES = 2_000_000
_MAX_TEXT_BYTES = 256 << 20
"""Of a whole layer's names, link targets and xattrs, which are kept in memory: 2 GB with everything around them."""
_XATTR_COST_BYTES = 64
_MAX_PATH_BYTES = 4096
_MAX_MAJOR, _MAX_MINOR = 1 << 12, 1 << 20  # Linux: include/linux/kdev_t.h
_XATTR = b"SCHILY.xattr."
_REGULAR, _HARD_LINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {_REGULAR, _HARD_LINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO}
_ALSO_REGULAR = {b"\0", b"7"}
_NOTHING: Mapping[str, bytes] = {}
_ZEROS = bytes(BLOCK_BYTES)

Tar = mmap.mmap | memoryview


class Entry(NamedTuple):
    """One member as its headers describe it. A tuple, not a dataclass: 44,000 of them are made per image.

    Attributes:
        number: position among the members; hard links to one file share the file's entry.
        name / link: as in the tar (undecodable bytes by surrogateescape).
        kind: the ustar type flag, old and contiguous regular files as ``b"0"``.
        offset / size_bytes: where the content lies; size 0 for everything but regular files.
        end: where the padded content ends, which is the next header's place.
    """

    number: int
    name: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    offset: int
    size_bytes: int
    end: int
    link: str
    device: tuple[int, int]
    xattrs: Mapping[str, bytes]

    @property
    def is_regular(self) -> bool:
        return self.kind == _REGULAR

    @property
    def is_hard_link(self) -> bool:
        return self.kind == _HARD_LINK

    @property
    def is_symlink(self) -> bool:
        return self.kind == _SYMLINK

    @property
    def is_directory(self) -> bool:
        return self.kind == _DIRECTORY

    @property
    def is_fifo(self) -> bool:
        return self.kind == _FIFO

    @property
    def is_device(self) -> bool:
        return self.kind in (_CHARACTER, _BLOCK)

    @property
    def is_character_device(self) -> bool:
        return self.kind == _CHARACTER


def entries(tar: Tar) -> Iterator[Entry]:
    """The members in order.

    Raises:
        UnacceptableError: truncated, a wrong header checksum, a sparse file, an unknown type, or absurd numbers.

    Global pax headers are left out, as containerd, containers/storage and umoci do.
    """
    position, number, total_bytes = 0, 0, len(tar)
    extension_bytes, text_bytes = 0, 0
    overrides: dict[str, bytes] = {}
    while position < total_bytes:
        header = bytes(tar[position : position + BLOCK_BYTES])
        if len(header) < BLOCK_BYTES:
            raise UnacceptableError(f"malformed layer: its tar is cut off inside the header at byte {position}")
        if header == _ZEROS:
            break
        _check(header, position)
        kind = header[156:157]
        size_bytes = _number(header[124:136], position)
        content = position + BLOCK_BYTES
        if kind in b"xgLK":
            extension_bytes += size_bytes
            if not 0 <= size_bytes <= extension_bytes <= _EXTENSION_LIMIT_BYTES or content + size_bytes > total_bytes:
                raise UnacceptableError(f"malformed layer: extended header of {size_bytes} bytes at byte {position}")
            body = bytes(tar[content : content + size_bytes])
            if kind == b"x":
                overrides |= _records(body, position)
            elif kind != b"g":
                overrides["path" if kind == b"L" else "linkpath"] = body.split(b"\0", 1)[0]
            position = content + _padded(size_bytes)
            continue
        entry = _entry(number, header, position, kind, size_bytes, overrides)
        if entry.end - _padded(entry.size_bytes) + entry.size_bytes > total_bytes:
            raise UnacceptableError(f"malformed layer: its tar is cut off inside {entry.name!r}")
        text_bytes += len(entry.name) + len(entry.link)
        text_bytes += sum(len(name) + len(value) + _XATTR_COST_BYTES for name, value in entry.xattrs.items())
        if number >= _MAX_ENTRIES or text_bytes > _MAX_TEXT_BYTES:
            raise UnacceptableError(f"unsafe layer: more than {number} entries, or too long names and xattrs; split it")
        yield entry
        overrides, extension_bytes = {}, 0
        number += 1
        position = entry.end


def _entry(
    number: int, header: bytes, position: int, kind: bytes, size_bytes: int, records: Mapping[str, bytes]
) -> Entry:
    name, link = _text(header[0:100]), _text(header[157:257])
    if header[257:263] == b"ustar\0" and header[345] != 0:
        name = _text(header[345:500]) + b"/" + name
    uid, gid = _number(header[108:116], position), _number(header[116:124], position)
    mtime_ns = _number(header[136:148], position) * 1_000_000_000
    xattrs = _NOTHING
    if records:
        if any(key.startswith("GNU.sparse.") for key in records):
            kind = b"S"
        name, link = records.get("path", name), records.get("linkpath", link)
        uid, gid = _decimal(records, "uid", uid), _decimal(records, "gid", gid)
        size_bytes = _decimal(records, "size", size_bytes)
        if "mtime" in records:
            mtime_ns = _nanoseconds(records["mtime"])
        prefix = _XATTR.decode()
        xattrs = {key[len(prefix) :]: value for key, value in records.items() if key.startswith(prefix)}
    if kind in _ALSO_REGULAR:
        kind = _REGULAR
    if kind == _REGULAR and name.endswith(b"/"):
        kind = _DIRECTORY  # how archives before ustar name directories
    text = os.fsdecode(name)
    if len(name) > _MAX_PATH_BYTES or len(link) > _MAX_PATH_BYTES:
        raise UnacceptableError(f"unsafe layer: a name or link longer than {_MAX_PATH_BYTES} bytes: {text[:100]!r}")
    if b"\0" in name or b"\0" in link or any("\0" in key for key in xattrs):
        raise UnacceptableError(f"malformed layer: {text!r} has a NUL byte in its name, link or xattrs")
    if kind not in _KINDS:
        what = "is a GNU sparse file" if kind == b"S" else f"has the unknown tar type {kind!r}"
        raise UnacceptableError(f"unsupported layer: {text!r} {what}; build the image with ordinary tar entries")
    if kind != _REGULAR:
        size_bytes = 0
    if not 0 <= uid < 1 << 32 or not 0 <= gid < 1 << 32 or size_bytes < 0 or abs(mtime_ns) >= 1 << 63:
        raise UnacceptableError(f"malformed layer: {text!r} has an owner, size or time that no file can have")
    device = (0, 0)
    if kind in (_CHARACTER, _BLOCK):
        device = _number(header[329:337], position), _number(header[337:345], position)
        if not (0 <= device[0] < _MAX_MAJOR and 0 <= device[1] < _MAX_MINOR):
            raise UnacceptableError(f"malformed layer: {text!r} is a device with numbers that Linux does not have")
    content = position + BLOCK_BYTES
    return Entry(
        number,
        text,
        kind,
        _number(header[100:108], position) & 0o7777,
        uid,
        gid,
        mtime_ns,
        content,
        size_bytes,
        content + _padded(size_bytes),
        os.fsdecode(link),
        device,
        xattrs,
    )


def _check(header: bytes, position: int) -> None:
    expected = _number(header[148:156], position)
    rest = header[:148] + b" " * 8 + header[156:]
    if sum(rest) != expected and sum(byte - 256 if byte > 127 else byte for byte in rest) != expected:
        raise UnacceptableError(f"malformed layer: wrong tar header checksum at byte {position}")


def _number(field: bytes, position: int) -> int:
    """Octal, or GNU base-256 when the first bit is set (two's complement)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise UnacceptableError(
            f"malformed layer: {field!r} is not a number in the tar header at byte {position}"
        ) from None


def _records(body: bytes, position: int) -> dict[str, bytes]:
    """``<length> <key>=<value>\\n``, where length counts the whole record."""
    records: dict[str, bytes] = {}
    start = 0
    while start < len(body):
        space = body.find(b" ", start, start + 20)
        digits = body[start:space] if space > start else b""
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(body) or body[end - 1 : end] != b"\n" or not equals or not key:
            raise UnacceptableError(f"malformed layer: bad pax record at byte {position}")
        records[key.decode("utf-8", "surrogateescape")] = value
        start = end
    return records


def _decimal(records: Mapping[str, bytes], key: str, default: int) -> int:
    value = records.get(key)
    if not value:
        return default
    if not value.isdigit() or len(value) > 20:
        raise UnacceptableError(f"malformed layer: pax {key} {value[:40]!r} is not a number")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    """``1700000000.123456789``, also negative; digits beyond nanoseconds are cut."""
    whole, _, fraction = value.decode("ascii", "replace").partition(".")
    digits = whole.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 12 or (fraction and not fraction.isdecimal()):
        raise UnacceptableError(f"malformed layer: pax mtime {value[:40]!r} is not a time")
    magnitude = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    return -magnitude if whole.startswith("-") else magnitude


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _padded(size_bytes: int) -> int:
    return (size_bytes + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES
