"""zstd (RFC 8878), frame after frame, skippable ones too (zstd:chunked)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import IO, cast

import zstandard

from imagedist.errors import IntegrityError
from imagedist.unpack.pieces import STEP_BYTES, Chunk, Put

_SKIPPABLE = 0x184D2A50
_SKIPPABLE_MASK = 0xFFFFFFF0
_SINGLE_SEGMENT, _CHECKSUM = 0x20, 0x04
_RLE = 1

Widen = Callable[[int], None]
"""Told a frame's window before any of it is decoded: the bytes of memory that its blocks may refer back to. May wait,
or refuse by raising."""


def at_ease(window_bytes: int) -> None:
    """As much as it likes."""


class ZstdDecoder:
    """A ``decode.Decoder``. zstandard decodes but does not tell where frames end, so they are walked beside it."""

    def __init__(self, put: Put, about: str, widen: Widen = at_ease) -> None:
        self._about = about
        self._frames = FrameWalk(widen)
        output = cast(IO[bytes], _Writable(put))
        self._writer = zstandard.ZstdDecompressor().stream_writer(output, write_size=STEP_BYTES)

    def feed(self, chunk: Chunk) -> None:
        self._frames.feed(chunk)
        try:
            self._writer.write(chunk)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"{self._about} is not valid zstd: {error}; fetch it again") from error

    def finish(self) -> None:
        del self._writer  # and its window
        if not self._frames.is_between_frames:
            raise IntegrityError(f"{self._about} ends inside a zstd frame: it is truncated; fetch it again")


class FrameWalk:
    """Follows the frames of a zstd stream by their headers, without decoding; content is passed over."""

    def __init__(self, widen: Widen = at_ease) -> None:
        self._steps = _steps(widen)
        self._skip_bytes, self._wanted_bytes, self._is_at_start = next(self._steps)
        self._seen = bytearray()

    @property
    def is_between_frames(self) -> bool:
        """Whether what was fed so far ends where a frame may begin."""
        return self._is_at_start and not self._skip_bytes and not self._seen

    def feed(self, chunk: Chunk) -> None:
        rest = memoryview(chunk)
        while rest:
            if self._skip_bytes:
                skipped = min(self._skip_bytes, len(rest))
                self._skip_bytes -= skipped
                rest = rest[skipped:]
                continue
            missing = self._wanted_bytes - len(self._seen)
            self._seen += rest[:missing]
            rest = rest[missing:]
            if len(self._seen) == self._wanted_bytes:
                self._skip_bytes, self._wanted_bytes, self._is_at_start = self._steps.send(bytes(self._seen))
                self._seen.clear()


def _steps(widen: Widen) -> Generator[tuple[int, int, bool], bytes, None]:
    """Yields how many bytes to pass over, how many to send then, and whether these begin a frame (RFC 8878 §3.1)."""
    skip_bytes = 0
    while True:
        magic = int.from_bytes((yield skip_bytes, 4, True), "little")
        if magic & _SKIPPABLE_MASK == _SKIPPABLE:
            skip_bytes = int.from_bytes((yield 0, 4, False), "little")
            continue
        (descriptor,) = yield 0, 1, False
        header = yield 0, _header_bytes(descriptor), False
        widen(_window_bytes(descriptor, header))
        skip_bytes = 0
        is_last = False
        while not is_last:
            block = int.from_bytes((yield skip_bytes, 3, False), "little")
            is_last = bool(block & 1)
            skip_bytes = 1 if block >> 1 & 3 == _RLE else block >> 3
        if descriptor & _CHECKSUM:
            skip_bytes += 4


def _header_bytes(descriptor: int) -> int:
    """What follows a frame header's descriptor: window, dictionary id, content size (RFC 8878 §3.1.1.1)."""
    is_single = bool(descriptor & _SINGLE_SEGMENT)
    content_size_bytes = (int(is_single), 2, 4, 8)[descriptor >> 6]
    return (not is_single) + (0, 1, 2, 4)[descriptor & 3] + content_size_bytes


def _window_bytes(descriptor: int, header: bytes) -> int:
    """The window, or the whole content where that is smaller (RFC 8878 §3.1.1.1.2 and §3.1.1.1.4)."""
    is_single = bool(descriptor & _SINGLE_SEGMENT)
    content_size_bytes = (int(is_single), 2, 4, 8)[descriptor >> 6]
    content_bytes = int.from_bytes(header[len(header) - content_size_bytes :], "little")
    content_bytes += 256 if content_size_bytes == 2 else 0
    if is_single:
        return content_bytes
    base = 1 << (10 + (header[0] >> 3))
    window_bytes = base + base // 8 * (header[0] & 7)
    return min(window_bytes, content_bytes) if content_size_bytes else window_bytes


class _Writable:
    """As much of a file object as zstandard's writer uses."""

    def __init__(self, put: Put) -> None:
        self._put = put

    def write(self, plain: bytes) -> int:
        self._put(len(plain), lambda: plain)
        return len(plain)
