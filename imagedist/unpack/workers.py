"""Warm worker processes that extract layers while they arrive, and who does what next."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from imagedist.errors import StorageError, storage_error
from imagedist.unpack.extract import ExtractedLayer
from imagedist.unpack.lead import Advanced, Batch
from imagedist.unpack.limits import DEFAULTS, Limits
from imagedist.unpack.placement import ANYWHERE, Placement
from imagedist.unpack.process import Answer, WorkerGoneError, WorkerProcess
from imagedist.unpack.spare import SpareCpus
from imagedist.unpack.window import StagedTar
from imagedist.unpack.writers import Writers

__all__ = ["ExtractedLayer", "Extracting", "Workers"]

_SLICE_BYTES = 8 << 20
"""What a worker does of one layer before it looks for something more urgent; some 20 ms."""
_STEP_BYTES = 1 << 20
"""Less than this is not worth a request, unless somebody waits for it."""
_SHARED_BYTES = 4 << 20
"""A layer that has so much more decoded than extracted is shared with idle workers."""
_MAX_BATCHES = 32


_Request = tuple[str, tuple[object, ...]]
"""A method of ``lead.Layers``, and its arguments."""


class Extracting:
    """One layer on its way through the workers. Made by ``Workers.begin``; its methods may be called from any thread.

    Attributes:
        result: the extracted layer, or why it failed (UnacceptableError, StorageError). It is done only when no worker
            touches the layer's directory any more, also after ``cancel``.
    """

    def __init__(self, workers: Workers, layer: _Layer) -> None:
        self._workers = workers
        self._layer = layer
        self.result = layer.result

    @property
    def has_failed(self) -> bool:
        return self._layer.failure is not None

    @property
    def wants_whole(self) -> bool:
        """Nothing more is consumed before the tar is whole."""
        return self._layer.wants_whole

    @property
    def seconds(self) -> float:
        """What workers spent on it so far."""
        return self._layer.seconds

    def advance(self, available_bytes: int, expected_bytes: int, *, is_whole: bool = False) -> None:
        """So many bytes of the tar are there now.

        Args:
            expected_bytes: how big it will be, as far as can be told: layers with more left to do go first.
            is_whole: there will be no more.
        """
        self._workers._advance(self._layer, available_bytes, expected_bytes, is_whole)

    def hurry(self) -> None:
        """Somebody waits for bytes to be consumed, however few they are."""
        self._workers._hurry(self._layer)

    @property
    def is_starved(self) -> bool:
        """It did all it could with what it was told of, and said what of that is consumed."""
        return self._workers._is_starved(self._layer)

    def move(self, tar: StagedTar) -> None:
        """The tar goes on elsewhere. Blocks until nobody reads it where it was."""
        self._workers._move(self._layer, tar)

    def cancel(self) -> None:
        """Ends it as soon as possible; ``result`` tells when."""
        self._workers._cancel(self._layer)


@dataclass(eq=False, slots=True)
class _Layer:
    """What the scheduler knows of a layer; under its lock.

    Attributes:
        asked_bytes: what its leader was told to be there.
        is_hungry: the leader did all it could with that.
        position / batches / running: up to where the leader read, what it handed out, and what is being made of that.
        told_bytes: what ``consumed`` was told.
        lead: the worker that has the layer's plan. is_led: it is at work on it now.
    """

    number: int
    tar: StagedTar
    directory: Path
    consumed: Callable[[int], None]
    result: Future[ExtractedLayer]
    available_bytes: int = 0
    expected_bytes: int = 0
    asked_bytes: int = 0
    is_whole: bool = False
    is_hurried: bool = False
    is_hungry: bool = True
    is_ended: bool = False
    wants_whole: bool = False
    position: int = 0
    told_bytes: int = 0
    batches: list[Batch] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    lead: int | None = None
    is_led: bool = False
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    moved: threading.Event | None = None
    failure: BaseException | None = None

    @property
    def remaining_bytes(self) -> int:
        return max(self.expected_bytes, self.available_bytes) - self.position

    @property
    def needed_from(self) -> int:
        return min([self.position, *(start for start, _ in self.batches), *self.running])

    @property
    def is_starved(self) -> bool:
        is_at_work = self.is_led or self.batches or self.running
        return (
            self.is_hungry
            and not is_at_work
            and self.asked_bytes == self.available_bytes
            and (self.told_bytes == self.position)
        )

    @property
    def can_advance(self) -> bool:
        if self.is_ended or len(self.batches) >= _MAX_BATCHES:
            return False
        fresh_bytes = self.available_bytes - self.asked_bytes
        return not self.is_hungry or self.is_whole or fresh_bytes >= (1 if self.is_hurried else _STEP_BYTES)


@dataclass(frozen=True, slots=True)
class _Work:
    """One request to a worker."""

    kind: Literal["advance", "finish", "drop", "move", "jobs"]
    layer: _Layer
    batch: Batch | None = None
    is_shared: bool = False

    @property
    def is_writing(self) -> bool:
        return self.kind in ("advance", "finish", "jobs")


class Workers:
    """``count`` processes, started at once; extraction is system calls under the GIL, so threads would not do.

    A layer is led by one process, which reads its headers. The layer with the most left to do goes first. When a
    process would idle while another is behind, the leader only plans, and whoever is free makes the files.

    Args:
        placement: where they run.
        limits: what a layer may ask of this node.

    Attributes:
        spare: the CPUs on which no decoder is at work, for decoders to use.
    """

    def __init__(self, count: int, placement: Placement = ANYWHERE, limits: Limits = DEFAULTS) -> None:
        self.limits = limits
        self.placement = placement
        self.spare = SpareCpus(len(placement.cpus or os.sched_getaffinity(0)), placement.confine_thread)
        self._changed = threading.Condition()
        self._layers: list[_Layer] = []
        self._numbers = itertools.count()
        self._writers = Writers(max(count, 1))
        self._idle = 0
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(index, placement), name=f"unpack-{index}", daemon=True)
            for index in range(max(count, 1))
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, tar_path: Path, directory: Path, consumed: Callable[[int], None] = lambda _: None) -> Extracting:
        """Begins with a layer of whose tar nothing has arrived yet.

        Args:
            directory: there, empty.
            consumed: told, from another thread, that what is before a position of the tar is not needed any more.
        """
        result: Future[ExtractedLayer] = Future()
        result.set_running_or_notify_cancel()
        with self._changed:
            if self._is_closed:
                raise StorageError("cannot extract: the workers were closed")
            layer = _Layer(next(self._numbers), StagedTar(tar_path), directory, consumed, result)
            self._layers.append(layer)
        return Extracting(self, layer)

    def extract_file(self, tar_path: Path, directory: Path) -> Future[ExtractedLayer]:
        """Extracts an uncompressed tar that is there as a whole."""
        extracting = self.begin(tar_path, directory)
        try:
            size_bytes = tar_path.stat().st_size
        except OSError as error:
            extracting.cancel()
            raise storage_error("read a tar", error) from error
        extracting.advance(size_bytes, size_bytes, is_whole=True)
        return extracting.result

    def close(self) -> None:
        """Ends the processes; layers that are not finished fail."""
        with self._changed:
            self._is_closed = True
            for layer in list(self._layers):
                self._fail(layer, StorageError("cannot extract: the workers were closed"))
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.spare.close()

    def _advance(self, layer: _Layer, available_bytes: int, expected_bytes: int, is_whole: bool) -> None:
        with self._changed:
            layer.available_bytes, layer.expected_bytes = available_bytes, expected_bytes
            layer.is_whole |= is_whole
            if layer.can_advance:
                self._changed.notify_all()

    def _hurry(self, layer: _Layer) -> None:
        with self._changed:
            layer.is_hurried = True
            self._changed.notify_all()

    def _is_starved(self, layer: _Layer) -> bool:
        with self._changed:
            return layer.is_starved

    def _move(self, layer: _Layer, tar: StagedTar) -> None:
        moved = threading.Event()
        with self._changed:
            layer.tar = tar
            if layer not in self._layers or layer.failure is not None or layer.lead is None:
                return
            layer.moved = moved
            self._changed.notify_all()
        moved.wait()

    def _cancel(self, layer: _Layer) -> None:
        with self._changed:
            if layer in self._layers:
                self._fail(layer, StorageError("the extraction was cancelled"))
                self._changed.notify_all()

    def _serve(self, index: int, placement: Placement) -> None:
        """One thread per process. It also starts it: the kernel ends the process when this very thread ends."""
        process: WorkerProcess | None = None
        with contextlib.suppress(StorageError):  # told when there is something to do
            process = WorkerProcess(placement)
        while (chosen := self._next(index)) is not None:
            work, request = chosen
            answer = Answer()
            try:
                if process is None:
                    process = WorkerProcess(placement)
                answer = process.ask(*request)
            except WorkerGoneError as error:
                process, answer = None, Answer(error)
            except StorageError as error:
                answer = Answer(error)
            except Exception as error:  # this thread must not end: others wait for what it answers
                answer = Answer(WorkerGoneError(f"unpack worker answered nonsense ({error!r}): pull again"))
                if process is not None:
                    process.kill()
                    process = None
            self._done(index, work, answer)
        if process is not None:
            process.end()

    def _request(self, work: _Work) -> _Request:
        layer = work.layer
        if work.kind == "advance":
            ground = (layer.number, layer.tar, layer.directory, self.limits)
            return "advance", (*ground, layer.asked_bytes, layer.is_whole, _SLICE_BYTES, work.is_shared)
        if work.kind == "jobs":
            assert work.batch is not None
            return "jobs", (layer.tar, layer.asked_bytes, layer.directory, self.limits, work.batch[1])
        if work.kind == "move":
            return "move", (layer.number, layer.tar)
        return work.kind, (layer.number,)

    def _next(self, index: int) -> tuple[_Work, _Request] | None:
        """What this worker does next, waiting for it; None: nothing, ever again.

        The request is made at once: the layer may grow, end or move before it is sent.
        """
        with self._changed:
            while True:
                work = self._choose(index)
                if work is not None:
                    self._begin(index, work)
                    return work, self._request(work)
                if self._is_closed and not self._layers:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1

    def _choose(self, index: int) -> _Work | None:
        mine = [layer for layer in self._layers if layer.lead in (None, index) and not layer.is_led]
        for layer in mine:
            if layer.failure is not None:
                if not layer.running:
                    return _Work("drop", layer)
            elif layer.moved is not None and not layer.running:
                return _Work("move", layer)
        if not self._writers.may_begin():
            return None
        going = sorted(
            (layer for layer in self._layers if layer.failure is None and layer.moved is None),
            key=lambda layer: -layer.remaining_bytes,
        )
        for layer in going:
            if layer.batches:
                return _Work("jobs", layer, layer.batches[0])
        for layer in going:
            if layer.is_led or layer.lead not in (None, index):
                continue
            if layer.is_ended and not layer.running:
                return _Work("finish", layer)
            if layer.can_advance:
                backlog_bytes = layer.available_bytes - layer.position
                return _Work("advance", layer, is_shared=self._idle > 0 and backlog_bytes >= _SHARED_BYTES)
        return None

    def _begin(self, index: int, work: _Work) -> None:
        layer = work.layer
        if work.batch is not None:
            layer.batches.remove(work.batch)
            layer.running.append(work.batch[0])
        else:
            layer.lead, layer.is_led = index, True
        if work.kind == "advance":
            layer.asked_bytes, layer.is_hurried = layer.available_bytes, False
        if work.is_writing:
            self._writers.begin()

    def _done(self, index: int, work: _Work, answer: Answer) -> None:
        layer = work.layer
        with self._changed:
            before = layer.needed_from
            if work.batch is not None:
                layer.running.remove(work.batch[0])
            else:
                layer.is_led = False
            written_bytes = 0
            layer.seconds += answer.seconds
            if isinstance(answer.result, BaseException):
                self._fail(layer, answer.result)
                if isinstance(answer.result, WorkerGoneError):
                    self._lose(index, answer.result)
            else:
                written_bytes = self._take(layer, work, answer)
            if work.kind == "drop":
                layer.lead = None
            if work.is_writing:
                self._writers.end(written_bytes, answer.seconds, answer.busy_seconds)
            self._settle(layer)
            self._changed.notify_all()
            consumed = layer.needed_from
        if consumed > before and layer.failure is None:
            self._tell(layer, consumed)

    def _tell(self, layer: _Layer, position: int) -> None:
        try:
            layer.consumed(position)
            with self._changed:
                layer.told_bytes = max(layer.told_bytes, position)
        except Exception as error:  # as in _serve: this thread must not end
            failure = error if isinstance(error, StorageError) else StorageError(f"cannot give back a tar: {error!r}")
            with self._changed:
                self._fail(layer, failure)
                self._changed.notify_all()

    def _take(self, layer: _Layer, work: _Work, answer: Answer) -> int:
        """Takes what a worker answered. Returns the bytes of the tar that it dealt with."""
        if work.kind == "move":
            assert layer.moved is not None
            layer.moved.set()
            layer.moved = None
        elif work.kind == "advance":
            advanced: Advanced = answer.result
            written_bytes = advanced.position - layer.position
            layer.position, layer.is_ended, layer.is_hungry = advanced.position, advanced.is_ended, advanced.is_hungry
            layer.wants_whole = advanced.wants_whole
            layer.batches += advanced.batches
            return written_bytes
        elif work.kind == "jobs":
            for what, count in answer.result.items():
                layer.skipped[what] = layer.skipped.get(what, 0) + count
        elif work.kind == "finish":
            extracted: ExtractedLayer = answer.result
            counts = {
                what: extracted.skipped.get(what, 0) + layer.skipped.get(what, 0)
                for what in {*extracted.skipped, *layer.skipped}
            }
            self._layers.remove(layer)
            layer.result.set_result(replace(extracted, skipped=counts))
        return 0

    def _fail(self, layer: _Layer, failure: BaseException) -> None:
        layer.failure = layer.failure or failure
        layer.batches.clear()
        if layer.moved is not None:
            layer.moved.set()
            layer.moved = None
        self._settle(layer)

    def _lose(self, index: int, failure: BaseException) -> None:
        """What a worker led is lost with it."""
        for layer in list(self._layers):
            if layer.lead == index:
                layer.lead = None
                self._fail(layer, failure)

    def _settle(self, layer: _Layer) -> None:
        """A layer that failed is over when nobody has anything of it any more."""
        if layer.failure is None or layer.is_led or layer.running or layer.lead is not None:
            return
        if layer in self._layers:
            self._layers.remove(layer)
            layer.result.set_exception(layer.failure)
