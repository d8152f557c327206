"""Which decoder takes which bytes: the rule and the figures it rests on (measure yours: `imagedist-bench decoders`)."""

from __future__ import annotations

from typing import Literal

Way = Literal["copy", "zstd", "stream", "member"]
"""``stream``: isal, one gzip member after the other as bytes come. ``member``: a whole indexed member at once, on any
idle CPU, straight to its place."""

MAX_MEMBER_BYTES = 3 << 20
"""Compressed, of a member inflated at once. Deflate makes at most 1032 bytes of one, so that the 32 bits in which a
member states its plain size cannot have wrapped."""
MAX_PLAIN_BYTES = 4 << 20
"""Plain, of such a member: it is in memory as a whole, one per CPU."""
_OTHERS: dict[str, Way] = {"none": "copy", "zstd": "zstd"}


def choose(compression: str, member_bytes: int | None = None, plain_bytes: int | None = None) -> Way | None:
    """The way to decode a layer, or one gzip member of it.

    Plain MB/s of one 300 MB tar on two EPYC cores: gzip -6 by zlib 232, zlib-ng 571, isal 590; rapidgzip 388 with one
    thread, 540 with two; pgzip's members by isal in two threads 756; zstd -3 1030. SHA-256 1570, writing to tmpfs 1600.

    - Ordinary gzip: isal, with hashing and writing on another CPU when one is idle (300 MB with all of it: 1.15 s on
      one CPU, 0.87 s on two). rapidgzip would need four idle CPUs to win, and it holds 203 MB of anonymous memory with
      one thread, 286 with two, 317 with four, 377 with eight (0.16.1), where a whole puller may have 120 MB: so no
      number of idle CPUs makes it the choice.
    - pgzip's members that are small enough: each at once, on any idle CPU. With none idle it costs nothing: inflating
      a whole member is not slower than inflating it in steps.

    Args:
        compression: ``Descriptor.compression``.
        member_bytes: what the index says of a gzip member's compressed size; None: it is not indexed.
        plain_bytes: what the member's trailer says of its plain size, once that has arrived.

    Returns:
        None: there is no decoder for this compression.
    """
    if compression == "gzip":
        is_indexed = member_bytes is not None and member_bytes <= MAX_MEMBER_BYTES
        is_small = is_indexed and (plain_bytes or 0) <= MAX_PLAIN_BYTES
        return "member" if is_small else "stream"
    return _OTHERS.get(compression)
