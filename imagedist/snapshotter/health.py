"""``/livez``, ``/readyz`` and ``/metrics`` of the snapshotter, answered one after the other by a thread."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer

import prometheus_client

from imagedist.config import Address
from imagedist.errors import ImagedistError
from imagedist.snapshotter.opening import Opening

_LOG = logging.getLogger(__name__)

_SILENT_SECONDS = 5.0
"""After which a client that says nothing makes room for the next one."""
_FORBIDDEN = (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES)
_TEXT = "text/plain; charset=utf-8"


@contextmanager
def answering(address: Address, opening: Opening) -> Iterator[Address | None]:
    """Listens while the context is open; yields where. None: it cannot, which is logged, as containers must start."""
    try:
        server = _Server(address, opening)
    except OSError as error:
        remedy = "choose another [snapshotter] listen"
        if error.errno in _FORBIDDEN:
            remedy = "its unit needs RestrictAddressFamilies=AF_INET AF_INET6 (docs/snapshotter.md)"
        _LOG.warning("no /metrics: cannot listen on %s: %s; %s", address, error.strerror, remedy)
        yield None
        return
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, name="health", daemon=True)
    thread.start()
    try:
        yield Address(address.host, server.socket.getsockname()[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(TCPServer):
    allow_reuse_address = True

    def __init__(self, address: Address, opening: Opening) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.opening = opening
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        _LOG.debug("a client of /metrics went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SILENT_SECONDS

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/livez":
                self._answer(200, b"ok\n", _TEXT)
            case "/readyz":
                reason = _unready(self.server.opening)
                self._answer(200 if reason is None else 503, f"{reason or 'ok'}\n".encode(), _TEXT)
            case "/metrics":
                self._answer(200, prometheus_client.generate_latest(), prometheus_client.CONTENT_TYPE_LATEST)
            case _:
                self._answer(404, b"expected /livez, /readyz or /metrics\n", _TEXT)

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: an access log of probes is noise."""


def _unready(opening: Opening) -> str | None:
    try:
        opening.node()
    except ImagedistError as error:
        return str(error)
    return None
