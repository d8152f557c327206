"""tar-split of a layer: all of its tar but the files' contents, so that the tar can be put together again.

Format: github.com/vbatts/tar-split, tar/storage: gzip of JSON lines. Type 2 is raw bytes of the tar; type 1 a file
whose content is found on disk by its name, with its size and CRC-64/ISO.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import fastcrc
from isal import igzip

from imagedist.errors import storage_error
from imagedist.unpack.entries import Entry


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
        target.write_bytes(igzip.compress(b"".join(_lines(tar, entries, kept)), 1))
    except OSError as error:
        raise storage_error("write a tar-split", error) from error


def _lines(tar: memoryview, entries: Sequence[Entry], kept: Collection[int]) -> list[bytes]:
    lines: list[bytes] = []
    position = 0

    def segment(end: int) -> None:
        lines.append(b'{"type":2,"payload":"%s","position":%d}\n' % (base64.b64encode(tar[position:end]), len(lines)))

    for entry in entries:
        is_embedded = entry.size_bytes > 0 and entry.number not in kept
        content_end = entry.offset + entry.size_bytes
        segment(content_end if is_embedded else entry.offset)
        position = content_end
        content = b'"payload":null'
        if entry.size_bytes and not is_embedded:
            crc = fastcrc.crc64.go_iso(tar[entry.offset : content_end])
            content = b'"size":%d,"payload":"%s"' % (entry.size_bytes, base64.b64encode(crc.to_bytes(8, "big")))
        lines.append(b'{"type":1,%s,%s,"position":%d}\n' % (_name(entry.name), content, len(lines)))
    segment(len(tar))
    return lines


def _name(name: str) -> bytes:
    try:
        name.encode()
    except UnicodeEncodeError:
        return b'"name_raw":"%s"' % base64.b64encode(name.encode("utf-8", "surrogateescape"))
    return b'"name":%s' % json.dumps(name).encode()
