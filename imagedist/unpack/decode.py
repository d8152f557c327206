"""One function for every compression: compressed bytes pushed in, plain bytes pushed on, in bounded steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib

from imagedist.errors import IntegrityError, UnacceptableError

STEP_BYTES = 1 << 20
"""At most so many plain bytes go to the sink at once, whatever the ratio: a bomb meets the sink's limit early."""

Chunk = bytes | memoryview
_ISAL_ERROR: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # the stub says: an instance
Sink = Callable[[Chunk], None]


class Decoder(Protocol):
    def feed(self, chunk: Chunk) -> None:
        """Decodes what can be decoded now and calls the sink. The GIL is free in the heavy parts.

        Raises:
            IntegrityError: corrupt, or garbage after the end. Whatever the sink raises.
        """

    def finish(self) -> None:
        """The input ended here.

        Raises:
            IntegrityError: in the middle of a stream.
        """


def decoder(compression: str, sink: Sink, about: str) -> Decoder:
    """Chooses by compression (``Descriptor.compression``): ``none``, ``gzip`` or ``zstd``.

    isal inflates ordinary and multi-member gzip 2.5 times as fast as zlib; pgzip's indexed gzip is multi-member gzip.

    Args:
        about: the layer, for messages.
    """
    if compression == "none":
        return _Plain(sink)
    if compression == "gzip":
        return _Gzip(sink, about)
    if compression == "zstd":
        return _Zstd(sink, about)
    raise UnacceptableError(f"cannot decode {about}: compression {compression!r} is not none, gzip or zstd")


class _Plain:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def feed(self, chunk: Chunk) -> None:
        if chunk:
            self._sink(chunk)

    def finish(self) -> None:
        pass


class _Gzip:
    """RFC 1952, one member after another; each member's CRC and size are checked by isal."""

    def __init__(self, sink: Sink, about: str) -> None:
        self._sink = sink
        self._about = about
        self._member: igzip_lib.IgzipDecompressor | None = None

    def feed(self, chunk: Chunk) -> None:
        try:
            while chunk:
                if self._member is None:
                    self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
                chunk = self._feed_member(self._member, chunk)
        except _ISAL_ERROR as error:
            raise IntegrityError(f"{self._about} is not valid gzip: {error}; fetch it again") from error

    def _feed_member(self, member: igzip_lib.IgzipDecompressor, chunk: Chunk) -> bytes:
        """Returns what follows the member's end, nothing while it goes on."""
        plain = member.decompress(chunk, STEP_BYTES)
        while plain:
            self._sink(plain)
            if member.eof or member.needs_input:
                break
            plain = member.decompress(b"", STEP_BYTES)
        if not member.eof:
            return b""
        self._member = None
        rest: bytes = member.unused_data
        return rest

    def finish(self) -> None:
        if self._member is not None:
            raise IntegrityError(f"{self._about} ends inside a gzip member: it is truncated; fetch it again")


class _Zstd:
    """RFC 8878, frame after frame, skippable ones too.

    A frame that is cut off yields fewer bytes, which the diff ID then shows; zstandard's writer does not tell.
    """

    def __init__(self, sink: Sink, about: str) -> None:
        self._about = about
        self._writer = zstandard.ZstdDecompressor().stream_writer(
            cast(IO[bytes], _Writable(sink)), write_size=STEP_BYTES
        )

    def feed(self, chunk: Chunk) -> None:
        try:
            self._writer.write(chunk)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"{self._about} is not valid zstd: {error}; fetch it again") from error

    def finish(self) -> None:
        pass


class _Writable:
    """As much of a file object as zstandard's writer uses."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, plain: bytes) -> int:
        self._sink(plain)
        return len(plain)
