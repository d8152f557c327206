"""One function for every compression: compressed bytes pushed in, pieces of plain bytes put on, in bounded steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from imagedist.errors import UnacceptableError
from imagedist.unpack.gzip_members import GzipDecoder
from imagedist.unpack.pieces import STEP_BYTES, Chunk, Make, Put
from imagedist.unpack.ways import choose
from imagedist.unpack.zstd_frames import Widen, ZstdDecoder, at_ease

__all__ = ["STEP_BYTES", "Chunk", "Decoder", "Put", "decoder", "in_order"]


class Decoder(Protocol):
    def feed(self, chunk: Chunk) -> None:
        """Decodes what can be decoded now and puts it on. The GIL is free in the heavy parts.

        The chunk may change as soon as this returns.

        Raises:
            IntegrityError: corrupt, or garbage after the end. Whatever ``put`` raises.
        """

    def finish(self) -> None:
        """The input ended here.

        Raises:
            IntegrityError: in the middle of a stream.
        """


def decoder(compression: str, put: Put, about: str, widen: Widen = at_ease) -> Decoder:
    """Chooses by compression (``Descriptor.compression``) and, for gzip, member by member (``ways.choose``).

    Args:
        put: takes the pieces, in order; each is made when it is asked for.
        about: the layer, for messages.
        widen: is told before a frame of zstd takes memory for its window.

    Raises:
        UnacceptableError: there is no decoder for this compression.
    """
    way = choose(compression)
    if way is None:
        raise UnacceptableError(f"cannot decode {about}: compression {compression!r} is not none, gzip or zstd")
    if way == "copy":
        return _Plain(put)
    return ZstdDecoder(put, about, widen) if way == "zstd" else GzipDecoder(put, about)


def in_order(sink: Callable[[Chunk], object]) -> Put:
    """A ``put`` for who wants plain bytes, one piece after the other, in the thread that feeds."""

    def put(size_bytes: int, make: Make) -> None:
        sink(make())

    return put


class _Plain:
    def __init__(self, put: Put) -> None:
        self._put = put

    def feed(self, chunk: Chunk) -> None:
        plain = bytes(chunk)  # a copy of a view: the caller may write over what it shows
        if plain:
            self._put(len(plain), lambda: plain)

    def finish(self) -> None:
        pass
