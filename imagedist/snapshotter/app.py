"""The snapshotter process, top to bottom: its socket, the gRPC server, the node's snapshots."""

from __future__ import annotations

import logging
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from imagedist import __version__
from imagedist.errors import InputError, StorageError, storage_error
from imagedist.privileges import is_machine_root
from imagedist.snapshotter import early
from imagedist.snapshotter.listening import bound
from imagedist.snapshotter.opening import Opening
from imagedist.snapshotter.relay import Relay
from imagedist.snapshotter.service import Service
from imagedist.systemd import notify
from imagedist.unix_socket import private_directory

if TYPE_CHECKING:
    from imagedist.config import AgentConfig
    from imagedist.snapshotter.node import Node

_LOG = logging.getLogger(__name__)

_THREADS = 48
"""Calls at a time, of which at most 16 wait for a pull (``remote``)."""
_CALLS = 512
"""At a time, with those that queue for a thread; further ones are told RESOURCE_EXHAUSTED."""
_GRACE_SECONDS = 5.0


def run(load: Callable[[], AgentConfig]) -> None:
    """Serves until SIGTERM or SIGINT.

    Connections to a socket that systemd holds are greeted since the process began (``early``); calls wait.

    Args:
        load: reads the configuration.

    Raises:
        ConfigError: it is wrong, or has no table [snapshotter]. InputError: not root, or the socket is another's.
        StorageError: the socket cannot be made.
    """
    if not is_machine_root():
        raise InputError("the snapshotter needs root: containerd, which mounts what it says, runs as root")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    opening = Opening(load)
    relay = early.begin()
    try:
        with ExitStack() as stack:
            if relay is None:
                relay = Relay(stack.enter_context(bound(opening.config()[1].socket))).start()
            stack.enter_context(serving(opening.node, relay))
            config, table = opening.config()
            if table.listen is not None:
                from imagedist.snapshotter.health import answering  # here: hardly anything else needs to be there first

                stack.enter_context(answering(table.listen, opening))
            try:
                opening.node()
            except StorageError as error:
                _LOG.error("cannot serve snapshots: %s", error)  # every call is told so, and tries again
            _LOG.info("snapshotter %s: %s, store %s", __version__, relay.listener.getsockname(), config.storage.root)
            notify("READY=1")
            stop.wait()
            notify("STOPPING=1")
    finally:
        opening.close()


@contextmanager
def serving(open_node: Callable[[], Node], relay: Relay) -> Iterator[None]:
    """Serves the API to a relay's clients while the context is open; running calls get a few seconds to finish.

    Raises:
        InputError, StorageError: the gRPC server's own socket cannot be made.
    """
    private = _private(Path(relay.listener.getsockname()))
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, "call"),
        handlers=[Service(open_node).handler()],
        maximum_concurrent_rpcs=_CALLS,
    )
    try:
        server.add_insecure_port(f"unix:{private}")
    except RuntimeError as error:
        raise InputError(f"cannot listen on {private}: {error}") from error
    server.start()
    relay.serve(private)
    try:
        yield
    finally:
        relay.stop_accepting()
        server.stop(_GRACE_SECONDS).wait()
        relay.close()
        private.unlink(missing_ok=True)
        with suppress(OSError):
            private.parent.rmdir()


def _private(path: Path) -> Path:
    """Where the gRPC server itself listens: beside the socket, in a directory that is root's alone."""
    directory = path.with_name(f".{path.name}.grpc")
    private_directory(directory)
    try:
        (directory / "s").unlink(missing_ok=True)
    except OSError as error:
        raise storage_error("prepare the snapshotter's socket", error) from error
    return directory / "s"
