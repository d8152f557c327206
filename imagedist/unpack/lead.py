"""What a worker process is asked: to lead layers, and to make files of layers that others lead."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from imagedist.unpack.extract import ExtractedLayer, Extraction, extract_jobs
from imagedist.unpack.limits import Limits
from imagedist.unpack.ordinary import Job
from imagedist.unpack.window import BUFFER_BYTES, StagedTar

_BATCH_BYTES = 2 << 20
_BATCH_JOBS = 64

Batch = tuple[int, bytes]
"""Where its first byte is in the tar, and the pickled jobs."""


class Advanced(NamedTuple):
    """How far a layer got.

    Attributes:
        is_hungry: everything there was done; else the slice was over.
        wants_whole: nothing more is consumed before the tar is whole.
        batches: what others shall make.
    """

    position: int
    is_ended: bool
    is_hungry: bool
    wants_whole: bool
    batches: list[Batch]


class Layers:
    """The layers that this process leads, by the numbers its parent gave them. Each method is a request."""

    def __init__(self) -> None:
        self._extractions: dict[int, Extraction] = {}
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def advance(
        self,
        number: int,
        tar: StagedTar,
        directory: Path,
        limits: Limits,
        available_bytes: int,
        is_whole: bool,
        slice_bytes: int,
        is_shared: bool,
    ) -> Advanced:
        """Goes on with a layer, the first time from its beginning."""
        extraction = self._extractions.get(number)
        if extraction is None:
            extraction = self._extractions[number] = Extraction(tar, directory, limits, self._buffer)
        jobs: list[Job] | None = [] if is_shared else None
        is_hungry = extraction.advance(available_bytes, is_whole, slice_bytes=slice_bytes, jobs=jobs)
        return Advanced(
            extraction.position, extraction.is_ended, is_hungry, extraction.wants_whole, _batches(jobs or [])
        )

    def move(self, number: int, tar: StagedTar) -> None:
        if number in self._extractions:
            self._extractions[number].move(tar)

    def jobs(self, tar: StagedTar, end: int, directory: Path, limits: Limits, batch: bytes) -> dict[str, int]:
        return dict(extract_jobs(tar, end, directory, pickle.loads(batch), limits))

    def finish(self, number: int) -> ExtractedLayer:
        try:
            return self._extractions[number].finish()
        finally:
            self.drop(number)

    def drop(self, number: int) -> None:
        extraction = self._extractions.pop(number, None)
        if extraction is not None:
            extraction.close()
            gc.collect()  # an error and the frames it came through


def _batches(jobs: Sequence[Job]) -> list[Batch]:
    batches: list[Batch] = []
    start, size_bytes = 0, 0
    for position, (_, entry) in enumerate(jobs, 1):
        size_bytes += entry.size_bytes
        if size_bytes >= _BATCH_BYTES or position - start >= _BATCH_JOBS or position == len(jobs):
            batches.append((jobs[start][1].offset, pickle.dumps(jobs[start:position], pickle.HIGHEST_PROTOCOL)))
            start, size_bytes = position, 0
    return batches
