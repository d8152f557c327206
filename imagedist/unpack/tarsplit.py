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

_FILE, _SEGMENT = 1, 2


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
        encoded = base64.b64encode(tar[position:end]).decode()
        lines.append(b'{"type":%d,"payload":"%s","position":%d}\n' % (_SEGMENT, encoded.encode(), len(lines)))

    for entry in entries:
        is_embedded = entry.size_bytes > 0 and entry.number not in kept
        content_end = entry.offset + entry.size_bytes
        segment(content_end if is_embedded else entry.offset)
        position = content_end
        record: dict[str, object] = {"type": _FILE, **_name(entry.name)}
        if entry.size_bytes and not is_embedded:
            crc = fastcrc.crc64.go_iso(tar[entry.offset : content_end])
            record["size"] = entry.size_bytes
            record["payload"] = base64.b64encode(crc.to_bytes(8, "big")).decode()
        else:
            record["payload"] = None
        record["position"] = len(lines)
        lines.append(json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
    segment(len(tar))
    return lines


def _name(name: str) -> dict[str, str]:
    raw = name.encode("utf-8", "surrogateescape")
    try:
        return {"name": raw.decode()}
    except UnicodeDecodeError:
        return {"name_raw": base64.b64encode(raw).decode()}
