"""Single byte ranges of HTTP (RFC 9110 §14). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=\s*([0-9]{0,400})\s*-\s*([0-9]{0,400})\s*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``size_bytes`` bytes from ``offset`` on, within a blob of ``total_bytes``."""

    offset: int
    size_bytes: int
    total_bytes: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.offset}-{self.offset + self.size_bytes - 1}/{self.total_bytes}"


class Unsatisfiable:
    """The range lies outside of the blob: 416."""


def parse_range(header: str | None, total_bytes: int) -> ByteRange | Unsatisfiable | None:
    """Reads ``Range``: closed, open-ended (``5-``) or a suffix (``-5``).

    Returns:
        None, everything is sent: no header, or what a server may ignore (§14.2): other units, several ranges (no client
        of registries asks for those), nonsense, and any range of an empty blob, as Go's servers do.
    """
    match = _RANGE.match(header) if header else None
    if match is None or match.groups() == ("", "") or not total_bytes:
        return None
    first, last = match.groups()
    if first == "":
        size_bytes = min(int(last), total_bytes)
        return ByteRange(total_bytes - size_bytes, size_bytes, total_bytes) if size_bytes else Unsatisfiable()
    offset = int(first)
    if last and int(last) < offset:
        return None
    if offset >= total_bytes:
        return Unsatisfiable()
    end = min(int(last) + 1, total_bytes) if last else total_bytes
    return ByteRange(offset, end - offset, total_bytes)
