"""One layer: decoded, checked against its digests, compressed again into a file, all while its bytes arrive."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import IntegrityError, UnacceptableError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.image import Layer
from imagedist.repack.recipe import Encoder, Recipe
from imagedist.unpack.decode import Chunk, decoder, in_order
from imagedist.unpack.limits import DEFAULTS

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RepackedLayer:
    """A finished layer, in a file that belongs to whoever has this."""

    path: Path
    digest: Digest
    size_bytes: int
    plain_bytes: int


class LayerRepacker:
    """``feed`` and ``finish`` are called from a thread, one call at a time; ``close`` in any case.

    Args:
        threads: how many may compress beside each other.
    """

    def __init__(self, layer: Layer, recipe: Recipe, path: Path, threads: int) -> None:
        self._layer = layer
        self._recipe = recipe
        self._about = f"layer {layer.descriptor.digest}"
        self._max_plain_bytes = DEFAULTS.tar_bytes(layer.descriptor.size_bytes)
        self._blob_hash, self._plain_hash = layer.descriptor.digest.hasher(), layer.diff_id.hasher()
        self._blob_bytes = self._plain_bytes = 0
        self._block = bytearray()
        try:
            self._output = _Output(path)
        except OSError as error:
            raise storage_error("create a repacked layer", error) from error
        self._encoder: Encoder | None = recipe.encoder(self._output, threads)  # type: ignore[arg-type]  # enough of a file
        self._decoder = decoder(layer.descriptor.compression, in_order(self._take), self._about)

    def feed(self, chunk: Chunk) -> None:
        """Takes the next bytes of the blob.

        Raises:
            IntegrityError: they do not decode, or are too many. UnacceptableError: a bomb. StorageError: no room.
        """
        self._blob_bytes += len(chunk)
        if self._blob_bytes > self._layer.descriptor.size_bytes:
            raise IntegrityError(f"{self._about} is longer than its manifest says")
        self._blob_hash.update(chunk)
        try:
            self._decoder.feed(chunk)
        except OSError as error:
            raise storage_error("write a repacked layer", error) from error

    def finish(self) -> RepackedLayer:
        """The blob ended: checks everything.

        Raises:
            IntegrityError: size, digest or diff ID does not match. StorageError: no room.
        """
        descriptor = self._layer.descriptor
        if self._blob_bytes != descriptor.size_bytes:
            raise IntegrityError(f"{self._about} ended after {self._blob_bytes} of {descriptor.size_bytes} bytes")
        if not descriptor.digest.matches(self._blob_hash):
            raise IntegrityError(f"{self._about} has wrong bytes: they hash to {self._blob_hash.hexdigest()}")
        assert self._encoder is not None
        try:
            self._decoder.finish()
            if not self._layer.diff_id.matches(self._plain_hash):
                raise IntegrityError(
                    f"{self._about} decodes to {self._plain_hash.hexdigest()}: expected diff ID {self._layer.diff_id}"
                )
            if self._block:
                self._encoder.write(bytes(self._block))
            encoder, self._encoder = self._encoder, None
            encoder.close()
            if not self._output.size_bytes:
                self._output.write(gzip.compress(b"", mtime=0))  # pgzip writes nothing for nothing, which is no gzip
            self._output.close()
        except OSError as error:
            raise storage_error("write a repacked layer", error) from error
        output = self._output
        digest = Digest("sha256", output.hasher.hexdigest())
        return RepackedLayer(output.path, digest, output.size_bytes, self._plain_bytes)

    def close(self) -> None:
        """Ends the compressor's threads; an unfinished file is the caller's to remove."""
        if self._encoder is not None:
            self._output.is_wanted = False
            with contextlib.suppress(OSError):  # the disk that failed before fails again
                self._encoder.close()
            self._encoder = None
        with contextlib.suppress(OSError):
            self._output.close()

    def _take(self, plain: Chunk) -> None:
        """Cuts the plain bytes into blocks of one size, however they arrive: what is made of them must be the same."""
        self._plain_bytes += len(plain)
        if self._plain_bytes > self._max_plain_bytes:
            raise UnacceptableError(f"{self._about} decodes to more than {self._max_plain_bytes} bytes: refused")
        self._plain_hash.update(plain)
        self._block += plain
        block_bytes = self._recipe.block_bytes
        assert self._encoder is not None
        while len(self._block) >= block_bytes:
            self._encoder.write(bytes(memoryview(self._block)[:block_bytes]))
            del self._block[:block_bytes]


class _Output:
    """The file that compressed bytes go to, counted and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hasher = hashlib.sha256()
        self.size_bytes = 0
        self.is_wanted = True
        self._file = path.open("xb", buffering=_BUFFER_BYTES)

    def write(self, content: bytes) -> int:
        if self.is_wanted:
            self.hasher.update(content)
            self.size_bytes += len(content)
            self._file.write(content)
        return len(content)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
