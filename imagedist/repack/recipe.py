"""How layers are compressed: the same plain bytes always give the same compressed ones."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import IO, Literal, Protocol

import pgzip
import zstandard

from imagedist.errors import InputError
from imagedist.oci.manifest import OCI_LAYER

Compression = Literal["pgzip", "zstd", "gzip"]

_LEVELS = {"pgzip": range(1, 10), "gzip": range(1, 10), "zstd": range(1, 23)}
_DEFAULT_LEVELS = {"pgzip": 6, "gzip": 6, "zstd": 3}
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = 64 << 10, 2 << 20
"""pgzip's members: smaller ones compress badly, larger ones of random bytes are not inflated in parallel
(``unpack.ways.MAX_MEMBER_BYTES``)."""
DEFAULT_BLOCK_BYTES = 1 << 20
"""0.3 % larger than one gzip member of a 300 MB tar; 256 KiB: 0.8 %, 4 MiB: 0.2 %."""


class Encoder(Protocol):
    """What all three compressors are: a file to write plain bytes to."""

    def write(self, plain: bytes, /) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """Made by ``Recipe.of``.

    Attributes:
        block_bytes: plain bytes in one of pgzip's members.
    """

    compression: Compression
    level: int
    block_bytes: int

    @classmethod
    def of(cls, compression: Compression, level: int | None = None, block_bytes: int | None = None) -> Recipe:
        """With defaults.

        Raises:
            InputError: a level or block size that this compression does not have.
        """
        levels = _LEVELS[compression]
        if level is not None and level not in levels:
            raise InputError(f"bad level {level} for {compression}: expected {levels[0]} to {levels[-1]}")
        if block_bytes is not None and compression != "pgzip":
            raise InputError(f"{compression} has no blocks: leave out the block size, or use pgzip")
        if not MIN_BLOCK_BYTES <= (block_bytes or DEFAULT_BLOCK_BYTES) <= MAX_BLOCK_BYTES:
            raise InputError(f"bad block size {block_bytes}: expected {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES} bytes")
        return cls(compression, level or _DEFAULT_LEVELS[compression], block_bytes or DEFAULT_BLOCK_BYTES)

    @property
    def media_type(self) -> str:
        return f"{OCI_LAYER}+{'zstd' if self.compression == 'zstd' else 'gzip'}"

    def encoder(self, output: IO[bytes], threads: int) -> Encoder:
        """Compresses into ``output``, which stays open.

        The bytes depend on the blocks that are written, which must be ``block_bytes`` long but for the last, and on
        the version of the library, not on ``threads``.
        """
        if self.compression == "zstd":
            # One thread is not the same as none: zstd cuts its input the same way for any number above zero.
            compressor = zstandard.ZstdCompressor(level=self.level, threads=max(threads, 1), write_checksum=True)
            return compressor.stream_writer(output, closefd=False)
        if self.compression == "gzip":
            return gzip.GzipFile("", "wb", self.level, output, mtime=0)
        encoder: Encoder = pgzip.PgzipFile(
            "", "wb", self.level, output, mtime=0, thread=threads, blocksize=self.block_bytes
        )
        return encoder
