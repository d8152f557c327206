"""A service as a process: from its sockets to its clean stop, with word to systemd about both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from aiohttp import web

from imagedist.config import Address
from imagedist.config.values import AccessLog as Form
from imagedist.errors import InputError
from imagedist.service.access_log import AccessLog
from imagedist.service.limits import Limits
from imagedist.service.listener import ACCEPTED_AT_ONCE, bind, bound_address, reserve
from imagedist.service.recording import Recorder
from imagedist.service.server import DRAIN_SECONDS, serving
from imagedist.service.signals import StopSignals, stop_signals
from imagedist.service.tls import ServerTls
from imagedist.service.workers import Link, Supervisor
from imagedist.systemd import inherited_sockets, notify, watchdog_seconds

_LOG = logging.getLogger(__name__)

_DESCRIPTORS_EACH = 3
"""Of a connection that downloads: its own, the blob's, a duplicate to wait with."""
_OWN_DESCRIPTORS = 500


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How a service runs, beside what it does.

    Attributes:
        tls: certificate, key and client CA to serve by; called before the first connection.
        drain_seconds: how long running requests may finish after the first signal.
        access_log: the form of the lines on standard output.
    """

    limits: Limits = field(default_factory=Limits)
    tls: Callable[[], ServerTls] | None = None
    drain_seconds: float = DRAIN_SECONDS
    access_log: Form = "off"


def run_service(
    create: Callable[[], web.Application],
    address: Address,
    options: ServiceOptions | None = None,
    *,
    workers: int = 1,
) -> None:
    """Runs one service until SIGTERM or SIGINT; running requests may then finish. The second signal ends them.

    Listens on the sockets that systemd passed, if there are any, else at the address.

    Args:
        create: makes the app; called inside the running event loop, in each worker.
        workers: how many processes serve.

    Raises:
        InputError: the address is in use. Whatever the app's start-up raises.
        SystemExit: the workers could not start, and have said why.
    """
    options = options or ServiceOptions()
    passed = service_sockets()
    if workers == 1:
        asyncio.run(serve(create, passed or bind(address), options))
        return
    held = passed or reserve(address)
    at = bound_address(held)

    def work(link: Link) -> None:
        own = passed
        if not passed:
            for listening in held:
                listening.close()
            own = bind(Address(address.host, at.port), is_shared=True)
        asyncio.run(serve(create, own, options, link))

    _LOG.info("listening on %s", at)
    code = Supervisor(workers, work, held, options.drain_seconds).run()
    if code:
        raise SystemExit(code)


def service_sockets() -> list[socket.socket]:
    """The TCP sockets of our .socket unit; none without one.

    Raises:
        InputError: it has others.
    """
    sockets = inherited_sockets()
    if any(found.family not in (socket.AF_INET, socket.AF_INET6) for found in sockets):
        raise InputError("expected TCP sockets from systemd: see ListenStream= of the .socket unit")
    return sockets


async def serve(
    create: Callable[[], web.Application],
    sockets: Sequence[socket.socket],
    options: ServiceOptions,
    link: Link | None = None,
) -> None:
    """The life of one listening process.

    Args:
        link: to the parent that does the talking to systemd, if there is one.
    """
    files = raise_open_files_limit()
    limits = affordable(options.limits, files)
    tls = options.tls() if options.tls else None
    with stop_signals() as signals, reloading(tls):
        if link is not None:
            asyncio.get_running_loop().add_reader(link.lifeline, _orphaned, link, signals)
        async with recording(options.access_log) as recorder:
            async with serving(
                create(),
                sockets,
                limits=limits,
                tls=tls,
                recorder=recorder,
                drain_seconds=options.drain_seconds,
                cut=signals.cut,
                accept_at_once=1 if link else ACCEPTED_AT_ONCE,
                each_sweep=link.alive if link else lambda: None,
            ) as bound:
                if link is None:
                    _LOG.info("listening on %s", bound)
                    async with ready_for_systemd():
                        await signals.wait()
                else:
                    link.alive()
                    await signals.wait()


def _orphaned(link: Link, signals: StopSignals) -> None:
    asyncio.get_running_loop().remove_reader(link.lifeline)
    signals.stop.set()


@contextlib.contextmanager
def reloading(tls: ServerTls | None) -> Iterator[None]:
    """While open, SIGHUP has the certificate read again now (which happens by itself within a second)."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, tls.reload if tls is not None else lambda: None)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@contextlib.asynccontextmanager
async def ready_for_systemd() -> AsyncIterator[None]:
    """Says READY, then that we live for as long as the event loop turns, then STOPPING."""
    silent_seconds = watchdog_seconds()
    beating = asyncio.create_task(_beat(silent_seconds / 3)) if silent_seconds else None
    notify("READY=1")
    try:
        yield
    finally:
        notify("STOPPING=1")
        if beating is not None:
            beating.cancel()
            await asyncio.wait([beating])


async def _beat(seconds: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def recording(form: Form) -> AsyncIterator[Recorder]:
    """A recorder whose log is written to its end."""
    log = AccessLog(form) if form != "off" else None
    try:
        yield Recorder(log)
    finally:
        if log is not None:
            await log.close()


def raise_open_files_limit() -> int:
    """Every node, client and open blob takes a file descriptor; the usual soft limit of 1024 is for select().

    Returns:
        How many there may be.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def affordable(limits: Limits, files: int) -> Limits:
    """No more connections than there are file descriptors for."""
    most = max(16, (files - _OWN_DESCRIPTORS) // _DESCRIPTORS_EACH)
    if most >= limits.connections:
        return limits
    _LOG.info("%d open files allow %d connections, not %d: raise LimitNOFILE", files, most, limits.connections)
    return replace(limits, connections=most)
