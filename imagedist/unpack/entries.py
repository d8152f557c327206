"""One pass over the headers of a staged tar: ustar, GNU long names, pax (POSIX.1-2017 pax, GNU tar manual).

Where archives are ambiguous we read them as Go's archive/tar does, and with it podman, containerd, docker and umoci.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NoReturn
from zlib import adler32

from imagedist.errors import UnacceptableError
from imagedist.unpack import extension, sparse
from imagedist.unpack.limits import (
    DEFAULTS,
    MAX_EXTENSION_BYTES,
    MAX_PATH_BYTES,
    MAX_TEXT_BYTES,
    MAX_XATTR_BYTES,
    MAX_XATTR_NAME_BYTES,
    MAX_XATTRS,
    Limits,
)
from imagedist.unpack.numbers import decimal, nanoseconds, number
from imagedist.unpack.sparse import Sparse, Tar

__all__ = ["Entries", "Entry", "Tar", "entries"]

BLOCK_BYTES = 512
_HALF_BYTES = BLOCK_BYTES // 2
_MAX_MAJOR, _MAX_MINOR = 1 << 12, 1 << 20  # Linux: include/linux/kdev_t.h
_XATTR = "SCHILY.xattr."
_XATTR_COST_BYTES = 64  # of the objects around one in memory
_EXTENT_COST_BYTES = 128
_REGULAR, _HARD_LINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = frozenset((_REGULAR, _HARD_LINK, _SYMLINK, _CHARACTER, _BLOCK, _DIRECTORY, _FIFO))
_DEVICES = (_CHARACTER, _BLOCK)
_OLD_REGULAR, _CONTIGUOUS, _OLD_GNU_SPARSE = b"\0", b"7", b"S"
_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS = frozenset((_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK))
_NO_DEVICE = (0, 0)
_NOTHING: Mapping[str, bytes] = {}
_ZEROS = bytes(BLOCK_BYTES)
# name, mode, uid, gid, size, mtime, checksum, type, link, magic, (version, owner's names), major, minor, prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s66x8s8s155s12x")
_CHECKSUM_OF_BLANKS = 8 * ord(" ")


class Entry(NamedTuple):
    """One member as its headers describe it. A tuple, not a dataclass: 44,000 of them are made per image.

    Attributes:
        number: position among the members; hard links to one file share the file's entry.
        name / link: as in the tar (undecodable bytes by surrogateescape).
        kind: the ustar type flag, old, contiguous and sparse regular files as ``b"0"``.
        offset / size_bytes: where the content lies; size 0 for everything but regular files.
        end: where the padded content ends, which is the next header's place.
        sparse: where the content belongs in the file, when that is not all of it.
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
    sparse: Sparse | None = None

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
        return self.kind in _DEVICES

    @property
    def is_character_device(self) -> bool:
        return self.kind == _CHARACTER


def entries(tar: Tar, limits: Limits = DEFAULTS) -> Iterator[Entry]:
    """The members in order, see ``Entries``."""
    return Entries(tar, limits)


BLANK = Entry(0, "", _REGULAR, 0, 0, 0, 0, 0, 0, 0, "", _NO_DEVICE, _NOTHING)
"""What plain entries have of device, xattrs and sparse map."""


class Entries:
    """Iterates over the members in order; may go on after ``tar`` raised an error of its own, such as ``NotYet``.

    Attributes:
        position: of the next header.
        number: of the next entry.
        text_bytes: of all entries: what ``MAX_TEXT_BYTES`` bounds.

    Raises:
        UnacceptableError: truncated, a wrong header checksum, an unknown type, a sparse map that lies, absurd numbers,
            or more than ``limits`` allow.

    Global pax headers are left out, as containerd, containers/storage and umoci do.
    """

    def __init__(self, tar: Tar, limits: Limits = DEFAULTS) -> None:
        self._tar = tar
        self.limits = limits
        self.position = 0
        self.number = 0
        self.text_bytes = 0
        self._plain = extension.compiled.entry if extension.compiled else None

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        """A header may be read again when more has come: nothing changes the state before the entry is there."""
        position, total_bytes = self.position, len(self._tar)
        if self._plain is not None and position < total_bytes and self.number < self.limits.entries:
            header = self._tar[position : position + BLOCK_BYTES]
            entry: Entry | None = self._plain(header, position, total_bytes, self.number, BLANK)
            text_bytes = self.text_bytes + len(entry.name) + len(entry.link) if entry is not None else 0
            if entry is not None and text_bytes <= MAX_TEXT_BYTES:
                self.skip(entry.end, 1, text_bytes)
                return entry
        return self._read()

    def skip(self, position: int, count: int, text_bytes: int) -> None:
        """So many entries more were read, up to ``position``; they and those before have ``text_bytes``."""
        self.position, self.number, self.text_bytes = position, self.number + count, text_bytes

    def _read(self) -> Entry:
        tar, position, total_bytes = self._tar, self.position, len(self._tar)
        extension_bytes = 0
        records: Mapping[str, bytes] = _NOTHING
        long_name = long_link = b""
        while position < total_bytes:
            header = tar[position : position + BLOCK_BYTES]
            if len(header) < BLOCK_BYTES:
                raise UnacceptableError(f"malformed layer: its tar is cut off inside the header at byte {position}")
            fields = _HEADER.unpack(header)
            kind, checksum = fields[7], fields[6]
            # Adler-32's low half is 1 + the sum modulo 65521, which half a header cannot reach: 20 times as fast.
            total = (adler32(header[:_HALF_BYTES]) & 0xFFFF) + (adler32(header[_HALF_BYTES:]) & 0xFFFF) - 2
            if total == 0:
                if tar[position + BLOCK_BYTES : position + 2 * BLOCK_BYTES] in (_ZEROS, b""):
                    raise StopIteration
                raise UnacceptableError(f"malformed layer: a lone block of zeros at byte {position}")
            if total - sum(checksum) + _CHECKSUM_OF_BLANKS != number(checksum) and not _has_signed_checksum(header):
                raise UnacceptableError(f"malformed layer: wrong tar header checksum at byte {position}")
            size_bytes = number(fields[4])
            if kind not in _EXTENSIONS:
                entry = self._entry(position, fields, size_bytes, records, long_name, long_link)
                self.number += 1
                self.position = entry.end
                return entry
            content = position + BLOCK_BYTES
            extension_bytes += size_bytes
            if not 0 <= size_bytes <= extension_bytes <= MAX_EXTENSION_BYTES or content + size_bytes > total_bytes:
                raise UnacceptableError(f"malformed layer: extended header of {size_bytes} bytes at byte {position}")
            body = bytes(tar[content : content + size_bytes])
            if kind == _PAX:
                records = _records(body, position)
            elif kind == _LONG_NAME:
                long_name = body.partition(b"\0")[0]
            elif kind == _LONG_LINK:
                long_link = body.partition(b"\0")[0]
            position = content + _padded(size_bytes)
        raise StopIteration

    def _entry(
        self,
        position: int,
        fields: tuple[bytes, ...],
        size_bytes: int,
        records: Mapping[str, bytes],
        long_name: bytes,
        long_link: bytes,
    ) -> Entry:
        raw_name, mode, raw_uid, raw_gid, _, mtime, _, kind, raw_link, magic, major, minor, prefix = fields
        name, link = raw_name.partition(b"\0")[0], raw_link.partition(b"\0")[0]
        if magic == b"ustar\0" and prefix[0] != 0:
            name = prefix.partition(b"\0")[0] + b"/" + name
        uid, gid, mtime_ns = number(raw_uid), number(raw_gid), number(mtime) * 1_000_000_000
        xattrs, is_sparse = _NOTHING, False
        if records:
            name, link = records.get("path") or name, records.get("linkpath") or link
            uid, gid = _record(records, "uid", uid), _record(records, "gid", gid)
            size_bytes = _record(records, "size", size_bytes)
            if records.get("mtime"):
                mtime_ns = nanoseconds(records["mtime"])
            xattrs = {key[len(_XATTR) :]: value for key, value in records.items() if key.startswith(_XATTR)}
            if is_sparse := kind != _OLD_GNU_SPARSE and sparse.is_sparse(records):
                name = records.get("GNU.sparse.name") or name
        name, link = long_name or name, long_link or link
        if kind == _OLD_REGULAR:
            kind = _DIRECTORY if name.endswith(b"/") else _REGULAR  # how archives before ustar name directories
        elif kind == _OLD_GNU_SPARSE:
            is_sparse, kind = True, _REGULAR
        elif kind == _CONTIGUOUS:
            kind = _REGULAR
        text, target = name.decode("utf-8", "surrogateescape"), link.decode("utf-8", "surrogateescape")
        if kind not in _KINDS:
            _refuse(f"{text[:100]!r} has the unknown tar type {kind!r}; build the image with ordinary tar entries")
        if kind != _REGULAR:
            size_bytes = 0
            if is_sparse:
                _refuse(f"{text[:100]!r} is sparse but no file")
        content = position + BLOCK_BYTES
        end = content + size_bytes
        if not 0 <= uid < 1 << 32 or not 0 <= gid < 1 << 32 or size_bytes < 0 or abs(mtime_ns) >= 1 << 63:
            _refuse(f"{text[:100]!r} has an owner, size or time that no file can have")
        holes: Sparse | None = None
        if is_sparse:
            read = sparse.old_gnu if fields[7] == _OLD_GNU_SPARSE else sparse.pax
            holes, content, end = read(self._tar, position, size_bytes, records, text)
        if end > len(self._tar):
            _refuse(f"its tar is cut off inside {text[:100]!r}")
        self._count(text, name, link, xattrs, holes)
        values = (
            self.number,
            text,
            kind,
            number(mode) & 0o7777,
            uid,
            gid,
            mtime_ns,
            content,
            end - content,
            (end + BLOCK_BYTES - 1) & -BLOCK_BYTES,
            target,
            _device(major, minor, text) if kind in _DEVICES else _NO_DEVICE,
            xattrs,
            holes,
        )
        return tuple.__new__(Entry, values)  # a named tuple's own constructor takes twice as long

    def _count(self, text: str, name: bytes, link: bytes, xattrs: Mapping[str, bytes], holes: Sparse | None) -> None:
        """Refuses what no file can have, and what would fill the memory."""
        if len(name) > MAX_PATH_BYTES or len(link) > MAX_PATH_BYTES:
            _refuse(f"{text[:100]!r} or its link is longer than {MAX_PATH_BYTES} bytes")
        if b"\0" in name or b"\0" in link:
            _refuse(f"{text[:100]!r} has a NUL byte in its name or link")
        text_bytes = self.text_bytes + len(name) + len(link)
        if xattrs:
            xattr_bytes = _size_of(xattrs, text)
            text_bytes += xattr_bytes + len(xattrs) * _XATTR_COST_BYTES
        if holes is not None:
            text_bytes += len(holes.extents) * _EXTENT_COST_BYTES
        if self.number >= self.limits.entries or text_bytes > MAX_TEXT_BYTES:
            raise UnacceptableError(
                f"unsafe layer: more than {self.number} entries, or too long names, xattrs and sparse maps; split it, "
                "or raise max_layer_entries of [unpack]"
            )
        self.text_bytes = text_bytes


def _size_of(xattrs: Mapping[str, bytes], name: str) -> int:
    if len(xattrs) > MAX_XATTRS:
        _refuse(f"{name[:100]!r} has more than {MAX_XATTRS} xattrs")
    for key in xattrs:
        if "\0" in key:
            _refuse(f"{name[:100]!r} has a NUL byte in an xattr's name")
        if len(key.encode("utf-8", "surrogateescape")) > MAX_XATTR_NAME_BYTES:
            _refuse(f"{name[:100]!r} has a bad xattr, with a name longer than {MAX_XATTR_NAME_BYTES} bytes")
    size_bytes = sum(len(key) + len(value) for key, value in xattrs.items())
    if size_bytes > MAX_XATTR_BYTES:
        _refuse(f"{name[:100]!r} has xattrs of {size_bytes} bytes, Linux has room for {MAX_XATTR_BYTES}")
    return size_bytes


def _device(major: bytes, minor: bytes, name: str) -> tuple[int, int]:
    device = number(major), number(minor)
    if not (0 <= device[0] < _MAX_MAJOR and 0 <= device[1] < _MAX_MINOR):
        _refuse(f"{name[:100]!r} is a device with numbers that Linux does not have")
    return device


def _has_signed_checksum(header: memoryview | bytes) -> bool:
    """As some old tars sum up bytes."""
    rest = bytes(header[:148]) + b" " * 8 + bytes(header[156:])
    return sum(byte - 256 if byte > 127 else byte for byte in rest) == number(bytes(header[148:156]))


def _records(body: bytes, position: int) -> dict[str, bytes]:
    """``<length> <key>=<value>\\n``, where length counts the whole record.

    The last record of a key counts; sparse form 0.0 repeats its keys, which become one list.
    """
    records: dict[str, bytes] = {}
    extents: list[bytes] = []
    start = 0
    while start < len(body):
        space = body.find(b" ", start, start + 20)
        digits = body[start:space] if space > start else b""
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(body) or body[end - 1 : end] != b"\n" or not equals or not key:
            raise UnacceptableError(f"malformed layer: bad pax record at byte {position}")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.offset") != (len(extents) % 2 == 0) or b"," in value:
                raise UnacceptableError(f"malformed layer: bad sparse pax records at byte {position}")
            extents.append(value)
        else:
            records[key.decode("utf-8", "surrogateescape")] = value
        start = end
    if extents:
        records["GNU.sparse.map"] = b",".join(extents)
    return records


def _record(records: Mapping[str, bytes], key: str, default: int) -> int:
    value = records.get(key)
    return decimal(value, f"pax {key}") if value else default


def _padded(size_bytes: int) -> int:
    return (size_bytes + BLOCK_BYTES - 1) & -BLOCK_BYTES


def _refuse(what: str) -> NoReturn:
    raise UnacceptableError(f"malformed layer: {what}")
