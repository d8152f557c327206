"""tar-split of a layer: all of its tar but the files' contents, so that the tar can be put together again.

Format: github.com/vbatts/tar-split, tar/storage: gzip of JSON lines. Type 2 is raw bytes of the tar; type 1 a file
whose content is found on disk by its name, with its size and CRC-64/ISO. Its own writer tells every entry by a type 1;
its reader refuses a name that comes twice, and passes over those without content. We tell only those with content, of
which each name has one: so layers with duplicates can be exported, too.
"""

from __future__ import annotations

import io
import json
import os
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import cast

import fastcrc
from isal import igzip

from imagedist.unpack.entries import Entry, Tar

SEGMENT_BYTES = 192 << 10
"""Longer pieces of raw tar are cut: what is embedded, or follows the tar's end, may be of any size."""
_WAITING_RECORDS = 256
_LONG_BYTES = 64 << 10


class TarSplit:
    """Written while the tar is read, in order.

    Attributes:
        position: up to which byte the tar is told.
        records: how many there are.
        files: the numbers of the entries of type 1, in order.
    """

    def __init__(self, target: Path) -> None:
        target.touch(mode=0o600)
        self._out = cast(io.RawIOBase, igzip.open(target, "wb", 1))  # type: ignore[no-untyped-call]  # a C extension's face
        self._waiting: list[bytes] = []
        self.records = 0
        self.files: list[int] = []
        self.position = 0

    def raw(self, tar: Tar, end: int) -> None:
        """Tells the bytes up to ``end`` as they are. When ``tar`` has not got them yet it may be called again."""
        while self.position < end:
            stop = min(self.position + SEGMENT_BYTES, end)
            self._write(b'"type":2,"payload":"%s"' % b2a_base64(tar[self.position : stop], newline=False))
            self.position = stop

    def kept(self, entry: Entry, crc: int) -> None:
        """Of a file that is in the layer directory under its own name: ``crc`` instead of its content."""
        payload = b2a_base64(crc.to_bytes(8, "big"), newline=False)
        self._write(b'"type":1,%s,"size":%d,"payload":"%s"' % (_name(entry.name), entry.size_bytes, payload))
        self.files.append(entry.number)
        self.position = entry.offset + entry.size_bytes

    def header_and_kept(self, header: memoryview | bytes, entry: Entry, crc: int) -> None:
        """``raw`` and ``kept`` in one, which is half the time: most of a layer is such files."""
        number = self.records
        self._waiting.append(
            b'{"type":2,"payload":"%s","position":%d}\n{"type":1,%s,"size":%d,"payload":"%s","position":%d}\n'
            % (
                b2a_base64(header, newline=False),
                number,
                _name(entry.name),
                entry.size_bytes,
                b2a_base64(crc.to_bytes(8, "big"), newline=False),
                number + 1,
            )
        )
        self.records = number + 2
        self.files.append(entry.number)
        self.position = entry.offset + entry.size_bytes
        if len(self._waiting) >= _WAITING_RECORDS:
            self._flush()

    def headers_and_kept(self, records: list[bytes], files: range, position: int) -> None:
        """What ``header_and_kept`` would have made of each of these files; they end at ``position``."""
        self._waiting += records
        self.records += 2 * len(records)
        self.files += files
        self.position = position
        if len(self._waiting) >= _WAITING_RECORDS:
            self._flush()

    def _write(self, record: bytes) -> None:
        self._waiting.append(b'{%s,"position":%d}\n' % (record, self.records))
        self.records += 1
        if len(self._waiting) >= _WAITING_RECORDS or len(record) >= _LONG_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._out.write(b"".join(self._waiting))
        self._waiting.clear()

    def close(self) -> None:
        self._flush()
        self._out.close()


def crc(content: memoryview | bytes, so_far: int | None = None) -> int:
    return int(fastcrc.crc64.go_iso(content, so_far))


def embed(target: Path, files: Iterable[int], contents: Mapping[int, tuple[Entry, Path]]) -> None:
    """Tells the contents of files that were ``kept`` and are not any more: later entries took their places.

    Args:
        files: of the ``TarSplit`` that wrote it.
        contents: by number of the entry, with the file that still holds its content.
    """
    fresh = target.with_name("tar-split.fresh")
    numbers = iter(files)
    with igzip.open(target, "rb") as old:  # type: ignore[no-untyped-call]  # a C extension's face
        split = TarSplit(fresh)
        for line in io.BufferedReader(cast(io.RawIOBase, old)):
            record = line[1 : line.rindex(b',"position":')]
            number = next(numbers) if record.startswith(b'"type":1') else None
            if number is None or number not in contents:
                split._write(record)
                continue
            _, path = contents[number]
            with path.open("rb") as file:
                while content := file.read(SEGMENT_BYTES):
                    split._write(b'"type":2,"payload":"%s"' % b2a_base64(content, newline=False))
        split.close()
    os.rename(fresh, target)


def _name(name: str) -> bytes:
    if name.isascii():
        return b'"name":%s' % encode_basestring_ascii(name).encode()
    try:
        return b'"name":%s' % json.dumps(name, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return b'"name_raw":"%s"' % b2a_base64(name.encode("utf-8", "surrogateescape"), newline=False)
