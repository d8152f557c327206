"""Puts a layer's tar together again from its tar-split and its files, as containers/storage does."""

from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path

import fastcrc


def reassembled(layer: Path) -> bytes:
    """The tar of an extracted layer; every file's CRC-64 is checked."""
    parts: list[bytes] = []
    for position, line in enumerate(gzip.decompress((layer / "tar-split.gz").read_bytes()).splitlines()):
        record = json.loads(line)
        assert record["position"] == position
        payload = base64.b64decode(record["payload"] or "")
        if record["type"] == 2:
            parts.append(payload)
        elif record.get("size"):
            name = record["name"].encode() if "name" in record else base64.b64decode(record["name_raw"])
            content = (layer / "diff" / os.fsdecode(name).lstrip("/")).read_bytes()
            assert len(content) == record["size"]
            assert fastcrc.crc64.go_iso(content) == int.from_bytes(payload, "big")
            parts.append(content)
    return b"".join(parts)
