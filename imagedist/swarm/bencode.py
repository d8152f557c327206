"""Bencoding (BEP 3): the canonical form only, so that equal values have equal bytes. Pure, safe on hostile input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from imagedist.errors import IntegrityError

Value: TypeAlias = int | bytes | Sequence["Value"] | Mapping[bytes, "Value"]

_DEPTH = 16
"""Nested lists and dictionaries at most; ours need 6. Bounds the recursion."""
_DIGITS = 20
"""Of a number or a length: what 64 bits need. Python's int() of a long text is quadratic."""


def encode(value: Value) -> bytes:
    """The canonical encoding: dictionary keys sorted as raw bytes."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Value, parts: list[bytes]) -> None:
    if isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, bytes):
        parts.append(b"%d:" % len(value))
        parts.append(value)
    elif isinstance(value, Mapping):
        parts.append(b"d")
        for key in sorted(value):
            _encode(key, parts)
            _encode(value[key], parts)
        parts.append(b"e")
    else:
        parts.append(b"l")
        for item in value:
            _encode(item, parts)
        parts.append(b"e")


def decode(text: bytes) -> Value:
    """Reads one value that fills the text.

    Raises:
        IntegrityError: not bencoded, not canonical (unsorted or repeated keys, leading zeros, bytes left over),
            or nested too deeply.
    """
    value, end = _decode(text, 0, 0)
    if end != len(text):
        raise IntegrityError(f"not bencoded: {len(text) - end} bytes follow the value")
    return value


def _decode(text: bytes, at: int, depth: int) -> tuple[Value, int]:
    kind = text[at : at + 1]
    if kind == b"i":
        end = text.find(b"e", at, at + _DIGITS + 3)
        return _number(text[at + 1 : max(end, 0)], at), end + 1
    if kind.isdigit():
        return _string(text, at)
    if kind in (b"l", b"d") and depth < _DEPTH:
        return (_list if kind == b"l" else _dictionary)(text, at + 1, depth + 1)
    raise IntegrityError(f"not bencoded: unexpected {kind!r} at byte {at}")


def _string(text: bytes, at: int) -> tuple[bytes, int]:
    colon = text.find(b":", at, at + _DIGITS + 1)
    start = colon + 1
    end = start + _number(text[at : max(colon, 0)], at)
    if start > end or end > len(text):
        raise IntegrityError(f"not bencoded: the string at byte {at} is cut short")
    return text[start:end], end


def _list(text: bytes, at: int, depth: int) -> tuple[list[Value], int]:
    items: list[Value] = []
    while text[at : at + 1] != b"e":
        item, at = _decode(text, at, depth)
        items.append(item)
    return items, at + 1


def _dictionary(text: bytes, at: int, depth: int) -> tuple[dict[bytes, Value], int]:
    entries: dict[bytes, Value] = {}
    last: bytes | None = None
    while text[at : at + 1] != b"e":
        if not text[at : at + 1].isdigit():
            raise IntegrityError(f"not bencoded: expected a dictionary key at byte {at}")
        key, at = _string(text, at)
        if last is not None and key <= last:
            raise IntegrityError(f"not canonical bencoding: the key {key[:40]!r} is out of order")
        entries[key], at = _decode(text, at, depth)
        last = key
    return entries, at + 1


def _number(digits: bytes, at: int) -> int:
    magnitude = digits.removeprefix(b"-")
    # isdigit() of bytes is ASCII only; a leading zero or "-0" would be a second spelling of the same number.
    if not magnitude.isdigit() or (magnitude[:1] == b"0" and digits != b"0"):
        raise IntegrityError(f"not bencoded: expected a number at byte {at}")
    return int(digits)
