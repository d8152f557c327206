"""Keeps a layer's tar-split true when the merge puts files elsewhere: its records name files where they lie."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path


def rename(tar_split: Path, current: Callable[[str], str]) -> None:
    """Gives each file record the path where the file is now; the tar's own names are in the raw records.

    Args:
        current: from a path at extraction, relative to the layer's root, to the one now.

    Raises:
        OSError: the disk failed.
    """
    aside = tar_split.with_suffix(".aside")
    with gzip.open(tar_split) as source, gzip.open(aside, "wb", 1) as target:
        for line in source:
            target.write(_renamed(line, current) if line.startswith(b'{"type":1,') else line)
    aside.replace(tar_split)


def _renamed(line: bytes, current: Callable[[str], str]) -> bytes:
    record = json.loads(line)
    name = record["name"] if "name" in record else os.fsdecode(base64.b64decode(record["name_raw"]))
    path = "/".join(part for part in name.split("/") if part not in ("", "."))
    now = current(path)
    if now == path or "size" not in record:
        return line
    record.pop("name", None)
    record.pop("name_raw", None)
    try:
        named = {"name": now.encode().decode()}
    except UnicodeEncodeError:
        named = {"name_raw": base64.b64encode(os.fsencode(now)).decode()}
    return json.dumps(record | named, separators=(",", ":")).encode() + b"\n"
