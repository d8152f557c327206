"""tar-split of a layer: all of its tar but the files' contents, so that the tar can be put together again.

Format: github.com/vbatts/tar-split, tar/storage: gzip of JSON lines. Type 2 is raw bytes of the tar; type 1 a file
whose content is found on disk by its name, with its size and CRC-64/ISO.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import cast

import fastcrc
from isal import igzip

from imagedist.errors import storage_error
from imagedist.unpack.entries import Entry

_SEGMENT_BYTES = 768 << 10
"""Longer pieces of raw tar are cut: what is embedded, or follows the tar's end, may be of any size."""
_BUFFER_BYTES = 1 << 20


def write(target: Path, tar: memoryview, entries: Sequence[Entry], kept: Collection[int]) -> None:
    """Writes the tar-split of a whole tar.

    Args:
        entries: all of them, in order.
        kept: numbers of the entries whose file is in the layer directory under their own name; the content of others
            (a duplicate that was replaced later, for one) is kept here.

    Raises:
        StorageError: the disk failed.
    """
    try:
        target.touch(mode=0o600)
        packed = cast(io.RawIOBase, igzip.open(target, "wb", 1))  # type: ignore[no-untyped-call]  # a C extension's face
        with packed, io.BufferedWriter(packed, _BUFFER_BYTES) as out:
            for position, record in enumerate(_records(tar, entries, kept)):
                out.write(b'{%s,"position":%d}\n' % (record, position))
    except OSError as error:
        raise storage_error("write a tar-split", error) from error


def _records(tar: memoryview, entries: Sequence[Entry], kept: Collection[int]) -> Iterator[bytes]:
    position = 0
    for entry in entries:
        is_embedded = entry.size_bytes > 0 and entry.number not in kept
        content_end = entry.offset + entry.size_bytes
        yield from _segments(tar, position, content_end if is_embedded else entry.offset)
        position = content_end
        content = b'"payload":null'
        if entry.size_bytes and not is_embedded:
            crc = fastcrc.crc64.go_iso(tar[entry.offset : content_end])
            content = b'"size":%d,"payload":"%s"' % (entry.size_bytes, base64.b64encode(crc.to_bytes(8, "big")))
        yield b'"type":1,%s,%s' % (_name(entry.name), content)
    yield from _segments(tar, position, len(tar))


def _segments(tar: memoryview, start: int, end: int) -> Iterator[bytes]:
    for position in range(start, end, _SEGMENT_BYTES):
        yield b'"type":2,"payload":"%s"' % base64.b64encode(tar[position : min(position + _SEGMENT_BYTES, end)])


def _name(name: str) -> bytes:
    try:
        name.encode()
    except UnicodeEncodeError:
        return b'"name_raw":"%s"' % base64.b64encode(name.encode("utf-8", "surrogateescape"))
    return b'"name":%s' % json.dumps(name).encode()
