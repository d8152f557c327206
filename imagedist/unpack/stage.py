"""Decodes one layer while its bytes arrive, into a staged tar whose size and both digests were checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from imagedist.errors import IntegrityError, StorageError, UnacceptableError, storage_error
from imagedist.oci.manifest import Layer
from imagedist.unpack.decode import Chunk, decoder
from imagedist.unpack.ramdisk import RESERVATION_BYTES, Ramdisk, move_to_disk

MAX_TAR_BYTES = 1 << 40
"""A layer that decodes to more is refused (a bomb)."""


@dataclass(frozen=True)
class StagedTar:
    """A decoded layer. Nobody but its owner knows the path; ``release`` gives file and budget back, once."""

    path: Path
    size_bytes: int
    layer: Layer
    on_ramdisk: bool
    _ramdisk: Ramdisk = field(repr=False)
    _reserved_bytes: int

    def release(self) -> None:
        try:
            self.path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error("remove a staged tar", error) from error
        if self._reserved_bytes:
            self._ramdisk.release(self._reserved_bytes)


class LayerStage:
    """One layer on its way from compressed bytes to a staged tar.

    ``feed`` is called from a thread, in order, one call at a time; layers run beside each other. Nothing leaves before
    ``finish``; an error in between leaves nothing behind.

    Args:
        layer: says size, digest, compression and diff ID.
        max_tar_bytes: the most it may decode to.
    """

    def __init__(self, ramdisk: Ramdisk, layer: Layer, max_tar_bytes: int = MAX_TAR_BYTES) -> None:
        self._ramdisk = ramdisk
        self._layer = layer
        self._about = f"layer {layer.descriptor.digest}"
        self._max_tar_bytes = max_tar_bytes
        self._blob_hash = layer.descriptor.digest.hasher()
        self._tar_hash = layer.diff_id.hasher()
        self._decoder = decoder(layer.descriptor.compression, self._write, self._about)
        self._blob_bytes = 0
        self._tar_bytes = 0
        self._reserved_bytes = 0
        self._on_ramdisk = ramdisk.budget_bytes > 0
        self._path = ramdisk.new_path() if self._on_ramdisk else ramdisk.new_spill_path()
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error("create a staged tar", error) from error

    def feed(self, chunk: Chunk) -> None:
        """Takes the next bytes of the blob.

        Raises:
            IntegrityError: more bytes than the manifest says, or they do not decode. UnacceptableError: a bomb.
            StorageError: no room, or the stage is over. After an error everything is dropped.
        """
        if self._descriptor < 0:
            raise StorageError(f"cannot stage {self._about}: it was aborted")
        try:
            self._blob_bytes += len(chunk)
            if self._blob_bytes > self._layer.descriptor.size_bytes:
                raise IntegrityError(
                    f"{self._about} is longer than the {self._layer.descriptor.size_bytes} bytes its manifest says"
                )
            self._blob_hash.update(chunk)
            self._decoder.feed(chunk)
        except BaseException:
            self.abort()
            raise

    def finish(self) -> StagedTar:
        """The blob ended: checks size, digest and diff ID, and hands the tar over.

        Raises:
            IntegrityError: one of them does not match; everything is dropped.
        """
        if self._descriptor < 0:
            raise StorageError(f"cannot stage {self._about}: it was aborted")
        try:
            descriptor = self._layer.descriptor
            if self._blob_bytes != descriptor.size_bytes:
                raise IntegrityError(f"{self._about} ended after {self._blob_bytes} of {descriptor.size_bytes} bytes")
            if not descriptor.digest.matches(self._blob_hash):
                raise IntegrityError(f"{self._about} has wrong bytes: they hash to {self._blob_hash.hexdigest()}")
            self._decoder.finish()
            if not self._layer.diff_id.matches(self._tar_hash):
                raise IntegrityError(
                    f"{self._about} decodes to {self._tar_hash.hexdigest()}: expected diff ID {self._layer.diff_id}"
                )
        except BaseException:
            self.abort()
            raise
        os.close(self._descriptor)
        self._descriptor = -1
        return StagedTar(
            self._path, self._tar_bytes, self._layer, self._on_ramdisk, self._ramdisk, self._reserved_bytes
        )

    def abort(self) -> None:
        """Drops everything; harmless when it is over already."""
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        self._path.unlink(missing_ok=True)
        if self._reserved_bytes:
            self._ramdisk.release(self._reserved_bytes)
            self._reserved_bytes = 0

    def _write(self, plain: Chunk) -> None:
        self._tar_bytes += len(plain)
        if self._tar_bytes > self._max_tar_bytes:
            raise UnacceptableError(f"{self._about} decodes to more than {self._max_tar_bytes} bytes: refused")
        self._tar_hash.update(plain)
        if self._on_ramdisk and self._tar_bytes > self._reserved_bytes:
            self._grow()
        try:
            view = memoryview(plain)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise storage_error("write a staged tar", error) from error

    def _grow(self) -> None:
        """Reserves more of the ramdisk, or moves this layer to disk for good."""
        budget_bytes = self._ramdisk.budget_bytes
        step_bytes = max(min(RESERVATION_BYTES, budget_bytes // 16), self._tar_bytes - self._reserved_bytes)
        if self._reserved_bytes + step_bytes <= budget_bytes and self._ramdisk.reserve(step_bytes):
            self._reserved_bytes += step_bytes
            return
        target = self._ramdisk.new_spill_path()
        self._descriptor = move_to_disk(self._path, self._descriptor, target)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._path, self._on_ramdisk = target, False
        if self._reserved_bytes:
            self._ramdisk.release(self._reserved_bytes)
        self._reserved_bytes = 0
