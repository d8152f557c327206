"""Decodes one layer while its bytes arrive, into a staged tar whose size and both digests are checked at its end."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

from imagedist.errors import IntegrityError, StorageError, UnacceptableError, storage_error
from imagedist.oci.image import Layer
from imagedist.unpack.decode import decoder
from imagedist.unpack.limits import DEFAULTS, Limits
from imagedist.unpack.pieces import Chunk, Make, Pieces
from imagedist.unpack.ramdisk import MAX_STEP_BYTES, Ramdisk, copy_range, give_back
from imagedist.unpack.spare import SpareCpus

_MIN_STEP_BYTES = 256 << 10
_GIVE_BACK_BYTES = 1 << 20
"""Consumed pages are given back in no smaller portions, unless the whole budget is small."""


_AHEAD_BYTES = 32 << 20
"""Decoded at most so far ahead of the reader: pages that are used again at once are in the cache, and cost a tenth less
of the whole pull than pages of a ramdisk that fills up (measured with budgets from 32 MiB to 4 GiB)."""
_NO_PROGRESS_SECONDS = 0.25


class Reader(Protocol):
    """Who consumes the tar while it grows (``workers.Extracting``)."""

    def advance(self, available_bytes: int, expected_bytes: int, *, is_whole: bool = False) -> None: ...
    def hurry(self) -> None: ...
    def move(self, tar_path: Path) -> None: ...
    @property
    def has_failed(self) -> bool: ...
    @property
    def wants_whole(self) -> bool: ...


class LayerStage:
    """One layer on its way from compressed bytes to a staged tar.

    ``feed`` and ``finish`` are called from one thread at a time; layers run beside each other. What the reader has
    consumed is given back at once, so a layer may be larger than the ramdisk. ``close`` gives back everything.

    Args:
        layer: says size, digest, compression and diff ID.
        limits: how much it may decode to.
        spare: idle CPUs that may decode, hash and write beside the thread that feeds.

    Attributes:
        path: of the tar, now.
        tar_bytes: decoded so far.
        is_on_ramdisk: False: it did not fit, or there is none.
    """

    def __init__(
        self, ramdisk: Ramdisk, layer: Layer, limits: Limits = DEFAULTS, spare: SpareCpus | None = None
    ) -> None:
        self._ramdisk = ramdisk
        self._layer = layer
        self._about = f"layer {layer.descriptor.digest}"
        self._max_tar_bytes = limits.tar_bytes(layer.descriptor.size_bytes)
        self._blob_hash = layer.descriptor.digest.hasher()
        self._blob_bytes = 0
        self._tar_hash = layer.diff_id.hasher()
        self._spare = spare
        self._pieces = Pieces(self._write_at, self._tar_hash, spare)
        self._decoder = decoder(layer.descriptor.compression, self._put, self._about)
        self._reader: Reader | None = None
        self._is_finished = False
        self._writing = threading.Lock()  # the kernel, too, lets one thread at a time write to a file
        self._spilling = threading.Lock()
        self._giving_back = threading.Lock()
        self._consumed_bytes = 0  # given back up to here
        self._reserved_end = 0  # reserved up to here
        self._ahead_bytes = _AHEAD_BYTES
        self._progress = threading.Condition(self._giving_back)
        self._portion_bytes = min(_GIVE_BACK_BYTES, ramdisk.budget_bytes // 16)
        self.tar_bytes = 0
        self.is_on_ramdisk = ramdisk.budget_bytes > 0
        self.path = ramdisk.new_path() if self.is_on_ramdisk else ramdisk.new_spill_path()
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error("create a staged tar", error) from error

    def hand_to(self, reader: Reader) -> None:
        """Says who reads the tar, before the first ``feed`` or after ``finish``."""
        self._reader = reader
        if self._is_finished:
            reader.advance(self.tar_bytes, self.tar_bytes, is_whole=True)

    def feed(self, chunk: Chunk) -> None:
        """Takes the next bytes of the blob.

        Raises:
            IntegrityError: more bytes than the manifest says, or they do not decode. UnacceptableError: a bomb.
            StorageError: no room, or the stage is closed.
        """
        size_bytes = self._layer.descriptor.size_bytes
        if self._descriptor < 0:
            raise StorageError(f"cannot stage {self._about}: it was aborted")
        self._blob_bytes += len(chunk)
        if self._blob_bytes > size_bytes:
            raise IntegrityError(f"{self._about} is longer than the {size_bytes} bytes its manifest says")
        with self._spare.busy() if self._spare else nullcontext():
            self._blob_hash.update(chunk)
            if self._reader is not None and self._reader.has_failed:
                return  # why, is told when the digest says whether the layer or its source is to blame
            self._decoder.feed(chunk)
        self._tell()

    def finish(self) -> None:
        """The blob ended: checks size, digest and diff ID. Only now the reader learns that the tar is whole.

        Raises:
            IntegrityError: one of them does not match.
        """
        if self._descriptor < 0:
            raise StorageError(f"cannot stage {self._about}: it was aborted")
        descriptor = self._layer.descriptor
        if self._blob_bytes != descriptor.size_bytes:
            raise IntegrityError(f"{self._about} ended after {self._blob_bytes} of {descriptor.size_bytes} bytes")
        if not descriptor.digest.matches(self._blob_hash):
            raise IntegrityError(f"{self._about} has wrong bytes: they hash to {self._blob_hash.hexdigest()}")
        if self._reader is None or not self._reader.has_failed:
            self._decoder.finish()
            self._pieces.settle()
            if not self._layer.diff_id.matches(self._tar_hash):
                raise IntegrityError(
                    f"{self._about} decodes to {self._tar_hash.hexdigest()}: expected diff ID {self._layer.diff_id}"
                )
        self._is_finished = True
        if self._reader is not None:
            self._reader.advance(self.tar_bytes, self.tar_bytes, is_whole=True)

    def consumed(self, position: int) -> None:
        """What lies before ``position`` is not needed any more. May be called from any thread."""
        with self._giving_back:
            if self._descriptor < 0 or position - self._consumed_bytes < self._portion_bytes:
                return
            give_back(self._descriptor, self._consumed_bytes, position)
            if self.is_on_ramdisk:
                self._ramdisk.release(position - self._consumed_bytes)
            self._consumed_bytes = position
            self._progress.notify_all()

    def close(self) -> None:
        """Gives file and budget back; nobody reads the tar any more. Harmless when it was done already."""
        if self._descriptor < 0:
            return
        self._pieces.stop(StorageError(f"cannot stage {self._about}: it was aborted"))
        with self._giving_back:
            os.close(self._descriptor)
            self._descriptor = -1
            self.path.unlink(missing_ok=True)
            if self.is_on_ramdisk:
                self._ramdisk.release(self._reserved_end - self._consumed_bytes)

    def _tell(self) -> None:
        if self._reader is not None:
            expected_bytes = self.tar_bytes * self._layer.descriptor.size_bytes // max(self._blob_bytes, 1)
            self._reader.advance(self._pieces.contiguous_bytes, expected_bytes)

    def _put(self, size_bytes: int, make: Make) -> None:
        """Makes room for the decoder's next piece, which may come into being later and elsewhere."""
        self.tar_bytes += size_bytes
        if self.tar_bytes > self._max_tar_bytes:
            raise UnacceptableError(
                f"{self._about} decodes to more than {self._max_tar_bytes} bytes: refused; if it is meant so, raise "
                "[unpack] max_layer_size or max_layer_ratio"
            )
        if self._reader is not None and self.tar_bytes - self._consumed_bytes > self._ahead_bytes:
            self._wait_for(self._reader)
        if self.is_on_ramdisk and self.tar_bytes > self._reserved_end:
            self._grow()
        if self._reader is None or not self._reader.has_failed:
            self._pieces.add(size_bytes, make)

    def _wait_for(self, reader: Reader) -> None:
        """Until the reader has caught up; one that does not get on may need to see more."""
        self._tell()
        with self._progress:
            while self.tar_bytes - self._consumed_bytes > self._ahead_bytes and not reader.has_failed:
                if reader.wants_whole or not self._progress.wait(_NO_PROGRESS_SECONDS):
                    self._ahead_bytes *= 2

    def _write_at(self, offset: int, plain: Chunk) -> None:
        view = memoryview(plain)
        while view:
            is_on_ramdisk = self.is_on_ramdisk
            try:
                with self._writing:
                    written = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                if error.errno != errno.ENOSPC or not is_on_ramdisk:
                    raise storage_error("write a staged tar", error) from error
                self._spill()  # somebody else filled the ramdisk
                continue
            view, offset = view[written:], offset + written

    def _grow(self) -> None:
        """Reserves more of the ramdisk, a little at first, or moves this layer to disk for good."""
        most = min(MAX_STEP_BYTES, self._ramdisk.budget_bytes // 16)
        missing_bytes = self.tar_bytes - self._reserved_end
        step_bytes = max(min(max(self.tar_bytes, _MIN_STEP_BYTES), most), missing_bytes)
        reader = self._reader
        if not self._ramdisk.reserve(step_bytes, wait=False):
            if reader is not None:
                self._pieces.settle()  # the reader can free only what it was told of
                self._tell()
                reader.hurry()
            if not self._ramdisk.reserve(step_bytes, give_up=lambda: reader is not None and reader.has_failed):
                if reader is None or not reader.has_failed:
                    self._spill()
                return
        with self._giving_back:
            if self.is_on_ramdisk:
                self._reserved_end += step_bytes
                return
        self._ramdisk.release(step_bytes)  # a full tmpfs sent it to disk meanwhile

    def _spill(self) -> None:
        with self._spilling:
            if not self.is_on_ramdisk:
                return
            target = self._ramdisk.new_spill_path()
            try:
                output = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise storage_error("spill a staged tar to disk", error) from error
            with self._writing, self._giving_back:
                source, source_path = self._descriptor, self.path
                try:
                    copy_range(source, output, self._consumed_bytes)
                except BaseException:
                    os.close(output)
                    target.unlink(missing_ok=True)
                    raise
                self._descriptor, self.path, self.is_on_ramdisk = output, target, False
                reserved_bytes = self._reserved_end - self._consumed_bytes
            if self._reader is not None:
                self._reader.move(target)
            os.close(source)
            source_path.unlink(missing_ok=True)
            self._ramdisk.release(reserved_bytes)
