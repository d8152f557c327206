"""Numbers as tar headers and pax records write them (POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format")."""

from __future__ import annotations

from functools import lru_cache

from imagedist.errors import UnacceptableError


@lru_cache(maxsize=4096)  # modes, owners and times repeat: a lookup costs a tenth of the parsing
def number(field: bytes) -> int:
    """Octal between blanks and NULs, or GNU base-256 (two's complement) when the first bit is set.

    Raises:
        UnacceptableError: neither.
    """
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if not digits:
        return 0
    try:
        if digits.isdigit():  # int would take signs, underscores and prefixes as well
            return int(digits, 8)
    except ValueError:
        pass
    raise UnacceptableError(f"malformed layer: {field!r} is not a number, as a tar header wants one")


def decimal(value: bytes, what: str) -> int:
    """Digits only, at most 20 of them.

    Raises:
        UnacceptableError: something else.
    """
    if not value.isdigit() or len(value) > 20:
        raise UnacceptableError(f"malformed layer: {what} {value[:40]!r} is not a number")
    return int(value)


def nanoseconds(value: bytes) -> int:
    """``1700000000.123456789``, also negative; digits beyond nanoseconds are cut.

    Raises:
        UnacceptableError: not a time, or farther away than a file system can say.
    """
    whole, _, fraction = value.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 12 or (fraction and not fraction.isdigit()):
        raise UnacceptableError(f"malformed layer: pax mtime {value[:40]!r} is not a time")
    magnitude = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -magnitude if whole.startswith(b"-") else magnitude
