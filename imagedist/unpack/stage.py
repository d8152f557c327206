"""Decodes one layer while its bytes arrive, into a staged tar whose size and both digests are checked at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from imagedist.errors import IntegrityError, StorageError, UnacceptableError
from imagedist.oci.image import Layer
from imagedist.unpack.decode import decoder
from imagedist.unpack.limits import DEFAULTS, FREE_WINDOW_BYTES, MAX_WINDOW_BYTES, Limits
from imagedist.unpack.pieces import Chunk, Make, Pieces, Spent, busy
from imagedist.unpack.ramdisk import Ramdisk
from imagedist.unpack.room import Reader, Room
from imagedist.unpack.spare import SpareCpus
from imagedist.unpack.turns import Turns


class LayerStage:
    """One layer on its way from compressed bytes to a staged tar.

    ``feed`` and ``finish`` are called from one thread at a time; layers run beside each other. A tar that is read while
    it grows needs little room (``room.Room``), so a layer may be larger than the ramdisk. ``close`` gives back all.

    Args:
        layer: says size, digest, compression and diff ID.
        limits: how much it may decode to.
        spare: idle CPUs that may decode, hash and write beside the thread that feeds.
        turns: who may decode; None: whoever feeds.
        is_verified: whoever feeds has checked that all of it has the layer's digest, before the last byte.
        spent: is told how long inflating, hashing and staging took, waits left out.

    Attributes:
        tar_bytes: decoded so far.
    """

    def __init__(
        self,
        ramdisk: Ramdisk,
        layer: Layer,
        limits: Limits = DEFAULTS,
        spare: SpareCpus | None = None,
        turns: Turns | None = None,
        *,
        is_verified: bool = False,
        spent: Spent = lambda stage, seconds: None,
    ) -> None:
        self._layer = layer
        self._about = f"layer {layer.descriptor.digest}"
        self._max_tar_bytes = limits.tar_bytes(layer.descriptor.size_bytes)
        self._blob_hash = None if is_verified else layer.descriptor.digest.hasher()
        self._blob_bytes = 0
        self._tar_hash = layer.diff_id.hasher()
        self._spare = spare
        self._turns = turns
        self._ramdisk = ramdisk
        self._room = Room(ramdisk, self._tell, self._paused)
        self._spent = spent
        self._pieces = Pieces(self._room.write_at, self._tar_hash, spare, spent)
        self._putting_seconds = 0.0
        self._decoder = decoder(layer.descriptor.compression, self._put, self._about, self._widen)
        self._window_bytes = FREE_WINDOW_BYTES
        self._charging = threading.Lock()
        self._is_finished = self._is_closed = False
        self.tar_bytes = 0

    @property
    def path(self) -> Path:
        """Of the tar, now."""
        return self._room.path

    @property
    def is_on_ramdisk(self) -> bool:
        """False: it did not fit, or there is none."""
        return self._room.is_on_ramdisk

    def hand_to(self, reader: Reader) -> None:
        """Says who reads the tar, before the first ``feed`` or after ``finish``."""
        self._room.read_by(reader, is_whole=self._is_finished)
        if self._is_finished:
            reader.advance(self.tar_bytes, self.tar_bytes, is_whole=True)

    def feed(self, chunk: Chunk) -> None:
        """Takes the next bytes of the blob.

        Raises:
            IntegrityError: more bytes than the manifest says, or they do not decode. UnacceptableError: a bomb.
            StorageError: no room, or the stage is closed.
        """
        size_bytes = self._layer.descriptor.size_bytes
        if self._is_closed:
            raise StorageError(f"cannot stage {self._about}: it was aborted")
        self._blob_bytes += len(chunk)
        if self._blob_bytes > size_bytes:
            raise IntegrityError(f"{self._about} is longer than the {size_bytes} bytes its manifest says")
        with self._turn():
            if self._blob_hash is not None:
                with busy(self._spent, "hash"):
                    self._blob_hash.update(chunk)
            if self._room.has_failed:
                return  # why, is told when the digest says whether the layer or its source is to blame
            with self._inflating():
                self._decoder.feed(chunk)
        self._room.tell(self._pieces.contiguous_bytes, self._expected_bytes)

    def finish(self) -> None:
        """The blob ended: checks size, digest and diff ID. Only now the reader learns that the tar is whole.

        Raises:
            IntegrityError: one of them does not match.
        """
        if self._is_closed:
            raise StorageError(f"cannot stage {self._about}: it was aborted")
        descriptor = self._layer.descriptor
        if self._blob_bytes != descriptor.size_bytes:
            raise IntegrityError(f"{self._about} ended after {self._blob_bytes} of {descriptor.size_bytes} bytes")
        if self._blob_hash is not None and not descriptor.digest.matches(self._blob_hash):
            raise IntegrityError(f"{self._about} has wrong bytes: they hash to {self._blob_hash.hexdigest()}")
        if not self._room.has_failed:
            with self._turn(), self._inflating():
                self._decoder.finish()
            self._narrow()
            self._pieces.settle()
            if not self._layer.diff_id.matches(self._tar_hash):
                raise IntegrityError(
                    f"{self._about} decodes to {self._tar_hash.hexdigest()}: expected diff ID {self._layer.diff_id}"
                )
        self._is_finished = True
        self._room.tell(self.tar_bytes, self.tar_bytes, is_whole=True)

    def consumed(self, position: int) -> None:
        """What lies before ``position`` is not needed any more. May be called from any thread."""
        self._room.consumed(position)

    def close(self) -> None:
        """Gives file and budget back; nobody reads the tar any more. Harmless when it was done already."""
        self._is_closed = True
        self._pieces.stop(StorageError(f"cannot stage {self._about}: it was aborted"))
        self._room.close()
        self._narrow()

    def _widen(self, window_bytes: int) -> None:
        """Charges a wide window to the ramdisk's budget, so that many of them and the staged tars are bounded together.

        A budget that could never hold one, such as none at all, is not asked. Raises StorageError.
        """
        more_bytes = window_bytes - self._window_bytes
        if not 0 < more_bytes <= self._ramdisk.budget_bytes or window_bytes > MAX_WINDOW_BYTES:
            return
        began = time.monotonic()
        with self._paused():
            has_room = self._ramdisk.reserve(more_bytes, give_up=lambda: self._is_closed)
        self._putting_seconds += time.monotonic() - began  # no time of inflating
        if not has_room:
            raise StorageError(
                f"no memory for {self._about}, which needs {window_bytes} bytes to be decoded (its zstd window): "
                "raise [unpack] ramdisk_budget, or try again when fewer layers are unpacked at once"
            )
        with self._charging:
            self._window_bytes += more_bytes
        if self._is_closed:
            self._narrow()

    def _narrow(self) -> None:
        """Gives that back, once."""
        with self._charging:
            more_bytes, self._window_bytes = self._window_bytes - FREE_WINDOW_BYTES, FREE_WINDOW_BYTES
        if more_bytes:
            self._ramdisk.release(more_bytes)

    @property
    def _expected_bytes(self) -> int:
        return self.tar_bytes * self._layer.descriptor.size_bytes // max(self._blob_bytes, 1)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Around whatever may decode."""
        with self._turns.turn(self._left_bytes) if self._turns else nullcontext():
            with self._spare.busy() if self._spare else nullcontext():
                yield

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Within a turn, around a wait."""
        with self._spare.waiting() if self._spare else nullcontext():
            with self._turns.given_away(self._left_bytes) if self._turns else nullcontext():
                yield

    @property
    def _left_bytes(self) -> int:
        return self._layer.descriptor.size_bytes - self._blob_bytes

    def _tell(self) -> int:
        self._pieces.settle()
        self._room.tell(self._pieces.contiguous_bytes, self._expected_bytes)
        return self._pieces.contiguous_bytes

    @contextmanager
    def _inflating(self) -> Iterator[None]:
        """Around the decoder: what it puts meanwhile is counted by itself."""
        began, before = time.monotonic(), self._putting_seconds
        try:
            yield
        finally:
            self._spent("inflate", time.monotonic() - began - (self._putting_seconds - before))

    def _put(self, size_bytes: int, make: Make) -> None:
        """Makes room for the decoder's next piece, which may come into being later and elsewhere."""
        began = time.monotonic()
        try:
            self._place(size_bytes, make)
        finally:
            self._putting_seconds += time.monotonic() - began

    def _place(self, size_bytes: int, make: Make) -> None:
        self.tar_bytes += size_bytes
        if self.tar_bytes > self._max_tar_bytes:
            raise UnacceptableError(
                f"{self._about} decodes to more than {self._max_tar_bytes} bytes: refused; if it is meant so, raise "
                "[unpack] max_layer_size or max_layer_ratio"
            )
        if self._room.make(self.tar_bytes):
            self._pieces.add(size_bytes, make)
