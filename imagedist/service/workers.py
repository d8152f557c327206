"""Several processes on the same listening sockets: started, watched, started again, and stopped together.

The parent serves nobody. It forks before there is a thread or an event loop, so that workers share the memory of what
was imported. Each has two pipes to it: by one it says that it serves and lives, by the other it learns that the parent
is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import multiprocess

from imagedist.errors import ImagedistError
from imagedist.metrics import WORKERS_RESTARTED
from imagedist.systemd import notify, watchdog_seconds

_LOG = logging.getLogger(__name__)

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_HEALTHY_SECONDS = 10.0
"""A worker that has lived for so long is started again at once."""
_MARGIN_SECONDS = 5.0
"""For a worker to close its store after the last request."""
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Link:
    """A worker's ends of its two pipes. ``lifeline`` can be read when the parent is gone."""

    status: int
    lifeline: int

    def alive(self) -> None:
        """Says that this worker serves. Never blocks."""
        with contextlib.suppress(OSError):
            os.write(self.status, b".")


@dataclass(slots=True)
class _Worker:
    pid: int
    status: int
    started_at: float
    heard_at: float
    is_ready: bool = False


@dataclass(slots=True)
class _Slot:
    """One of the workers there should be."""

    number: int
    worker: _Worker | None = None
    quick_ends: int = 0
    start_at: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """
    Args:
        count: how many workers there should be.
        work: a worker's whole life; runs in its process, with its link.
        sockets: what they listen on; the parent's copies are closed at the first signal.
        drain_seconds: how long a worker may take from the signal to its end.
    """

    count: int
    work: Callable[[Link], None]
    sockets: Sequence[socket.socket]
    drain_seconds: float
    clock: Callable[[], float] = time.monotonic
    _slots: list[_Slot] = field(default_factory=list)
    _lifeline: tuple[int, int] = (-1, -1)
    _stop_by: float | None = None
    _has_served: bool = False
    _exit_code: int = 0

    def run(self) -> int:
        """Returns the exit code when the last worker has ended: 0 after a signal; a worker's own if they never
        served."""
        with _signals() as signalled:
            self._lifeline = os.pipe()
            self._slots = [_Slot(number) for number in range(self.count)]
            silent_seconds = watchdog_seconds()
            try:
                while self._stop_by is None or any(slot.worker for slot in self._slots):
                    self._start_due()
                    self._wait(signalled)
                    for number in _drained(signalled):
                        self._received(number)
                    self._reap()
                    self._watch(silent_seconds)
            finally:
                for descriptor in self._lifeline:
                    os.close(descriptor)
        return self._exit_code

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.worker is None and self._stop_by is None and self.clock() >= slot.start_at:
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        status, its_status = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(status)
            self._become_worker(Link(its_status, self._lifeline[0]))
        os.close(its_status)
        os.set_blocking(status, False)
        now = self.clock()
        slot.worker = _Worker(pid, status, now, now)

    def _become_worker(self, link: Link) -> None:
        """Never returns: the parent's clean-up is not ours."""
        code = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the parent, which passes it on
            signal.set_wakeup_fd(-1)
            for number in (*_FORWARDED, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.close(self._lifeline[1])
            os.set_blocking(link.status, False)
            for slot in self._slots:
                if slot.worker is not None:
                    os.close(slot.worker.status)
            self.work(link)
            code = 0
        except ImagedistError as error:
            print(f"{sys.argv[0].rpartition('/')[2]}: {error}", file=sys.stderr)
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _wait(self, signalled: socket.socket) -> None:
        poll = select.poll()
        poll.register(signalled, select.POLLIN)
        for slot in self._slots:
            if slot.worker is not None:
                poll.register(slot.worker.status, select.POLLIN)
        pauses = [slot.start_at - self.clock() for slot in self._slots if slot.worker is None]
        poll.poll(1000 * max(0.0, min([_LOOK_SECONDS, *pauses])))
        for slot in self._slots:
            if slot.worker is not None:
                self._hear(slot.worker)

    def _hear(self, worker: _Worker) -> None:
        with contextlib.suppress(BlockingIOError):
            if os.read(worker.status, 4096):
                worker.heard_at = self.clock()
                if not worker.is_ready:
                    worker.is_ready = True
                    self._became_ready()

    def _became_ready(self) -> None:
        if not self._has_served and all(slot.worker is not None and slot.worker.is_ready for slot in self._slots):
            self._has_served = True
            _LOG.info("%d workers serve", self.count)
            notify("READY=1")

    def _received(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._tell(signal.SIGHUP)
        elif number in _FORWARDED:
            self._stop()

    def _stop(self) -> None:
        """The second time, workers end at once."""
        if self._stop_by is None:
            notify("STOPPING=1")
            self._stop_by = self.clock() + self.drain_seconds + _MARGIN_SECONDS
            for listening in self.sockets:
                listening.close()
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for slot in self._slots:
            if slot.worker is not None:
                os.kill(slot.worker.pid, number)  # not reaped yet, so the id is still its own

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.worker is None:
                continue
            pid, status = os.waitpid(slot.worker.pid, os.WNOHANG)
            if pid == 0:
                continue
            self._ended(slot, slot.worker, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: _Slot, worker: _Worker, code: int) -> None:
        slot.worker = None
        os.close(worker.status)
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
        if self._stop_by is not None:
            return
        if not self._has_served and not worker.is_ready:
            self._exit_code = code if code > 0 else 1  # the others would fail as well
            self._stop()
            return
        lived_seconds = self.clock() - worker.started_at
        slot.quick_ends = slot.quick_ends + 1 if lived_seconds < _HEALTHY_SECONDS else 0
        pause_seconds = min(_FIRST_PAUSE_SECONDS * 2**slot.quick_ends, _LONGEST_PAUSE_SECONDS)
        slot.start_at = self.clock() + pause_seconds
        WORKERS_RESTARTED.inc()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        _LOG.error("worker %d (pid %d) ended %s: starting another", slot.number, worker.pid, how)

    def _watch(self, silent_seconds: float | None) -> None:
        """Tells systemd that we live; ends workers that have outlived their time or do not answer."""
        now = self.clock()
        for slot in self._slots:
            worker = slot.worker
            if worker is None:
                continue
            if self._stop_by is not None and now > self._stop_by:
                _LOG.error("worker %d (pid %d) did not stop: killing it", slot.number, worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
            elif silent_seconds is not None and worker.is_ready and now - worker.heard_at > silent_seconds:
                _LOG.error("worker %d (pid %d) does not answer: killing it", slot.number, worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
        if silent_seconds is not None:
            notify("WATCHDOG=1")


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that can be read when a signal has come, with its number."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    numbers = (*_FORWARDED, signal.SIGCHLD)
    before = {number: signal.signal(number, _nothing) for number in numbers}
    woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _nothing(*_: object) -> None:
    """For the number to be written at all."""


def _drained(signalled: socket.socket) -> bytes:
    try:
        return signalled.recv(4096)
    except BlockingIOError:
        return b""
