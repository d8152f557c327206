"""Clients that only receive: ``python -m bench.load URL`` keeps connections busy and throws every byte away.

The kernel discards what arrives (``MSG_TRUNC``, tcp(7)): the server's cost decides, not the client's. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_HEAD_BYTES = 16 << 10
_CONNECT_SECONDS = 30.0
_STALL_SECONDS = 60.0
_SINK = bytearray(8 << 20)
"""Says how much may be discarded at a time; nothing is ever written to it."""


@dataclass
class Tally:
    """What the connections of one run have seen."""

    requests: int = 0
    body_bytes: int = 0
    errors: int = 0
    first_byte_seconds: list[float] = field(default_factory=list)
    whole_seconds: list[float] = field(default_factory=list)

    def figures(self, seconds: float) -> dict[str, float]:
        """Medians of the requests, sums of the rest."""
        figures: dict[str, float] = {
            "requests": self.requests,
            "body_bytes": self.body_bytes,
            "errors": self.errors,
            "seconds": seconds,
        }
        if self.first_byte_seconds:
            figures["first_byte_seconds"] = statistics.median(self.first_byte_seconds)
        if self.whole_seconds:
            figures["whole_seconds"] = statistics.median(self.whole_seconds)
        return figures


class Connection:
    """One connection, a request at a time."""

    def __init__(self, url: str, tally: Tally, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._tally = tally
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 80), _CONNECT_SECONDS)
        self._head = b""
        self._left_bytes: int | None = None
        self._started = 0.0
        self._is_first = True

    def start(self) -> None:
        self._head, self._left_bytes, self._started = b"", None, time.perf_counter()
        self.socket.sendall(self._request)

    @property
    def is_answered(self) -> bool:
        """Whether the body has begun."""
        return self._left_bytes is not None

    def receive(self) -> bool:
        """Takes what is there. Whether the body has ended.

        Raises:
            OSError: the answer is an error, or broke off.
        """
        if self._left_bytes is None:
            self._receive_some_head()
        else:
            got = self.socket.recv_into(_SINK, min(len(_SINK), self._left_bytes), socket.MSG_TRUNC)
            if not got:
                raise ConnectionError("the server broke off")
            self._count(got)
        if self._left_bytes != 0:
            return False
        self._tally.requests += 1
        self._tally.whole_seconds.append(time.perf_counter() - self._started)
        return True

    def receive_head(self) -> None:
        """Blocks until the answer's head is there. Raises as ``receive``."""
        while self._left_bytes is None:
            self._receive_some_head()

    def _receive_some_head(self) -> None:
        part = self.socket.recv(_HEAD_BYTES)
        head, end, body = (self._head + part).partition(b"\r\n\r\n")
        if not part or len(head) > _HEAD_BYTES:
            raise ConnectionError("the server sent no answer")
        if not end:
            self._head = head
            return
        status, *lines = head.split(b"\r\n")
        lengths = [line[15:] for line in lines if line.lower().startswith(b"content-length:")]
        if status.split()[1] not in (b"200", b"206") or len(lengths) != 1:
            raise ConnectionError(f"the server answered {status.decode(errors='replace')}")
        self._left_bytes = int(lengths[0])
        self._is_first = True
        self._count(len(body))

    def _count(self, count_bytes: int) -> None:
        assert self._left_bytes is not None
        if self._is_first and count_bytes:
            self._tally.first_byte_seconds.append(time.perf_counter() - self._started)
            self._is_first = False
        self._left_bytes -= count_bytes
        self._tally.body_bytes += count_bytes


def run(url: str, connections: int, requests_each: int, headers: Mapping[str, str] | None = None) -> Tally:
    """Lets each of ``connections`` make some requests, one after the other, all beginning together.

    Raises:
        OSError: the server cannot be reached, or sends nothing any more.
    """
    tally = Tally()
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        left = {}
        for _ in range(connections):
            connection = Connection(url, tally, headers)
            stack.enter_context(connection.socket)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            left[connection] = requests_each
        for connection in left:
            connection.start()
        while left:
            ready = selector.select(_STALL_SECONDS)
            if not ready:
                raise TimeoutError(f"{url} sent nothing for {_STALL_SECONDS:.0f} s")
            for key, _ in ready:
                connection = key.data
                try:
                    if not connection.receive():
                        continue
                    left[connection] -= 1
                    if left[connection]:
                        connection.start()
                        continue
                except OSError:
                    tally.errors += 1
                selector.unregister(key.fileobj)
                del left[connection]
    return tally


@contextmanager
def holding(url: str, count: int) -> Iterator[None]:
    """``count`` downloads that were begun and of which nobody reads more than the answer's head.

    Raises:
        OSError: one of them got no answer.
    """
    tally = Tally()
    with ExitStack() as stack:
        connections = [Connection(url, tally) for _ in range(count)]
        for connection in connections:
            stack.enter_context(connection.socket)
            connection.start()
        for connection in connections:
            connection.receive_head()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1, help="Of each connection.")
    given = parser.parse_args()
    started = time.perf_counter()
    tally = run(given.url, given.connections, given.requests)
    print(json.dumps(tally.figures(time.perf_counter() - started)))


if __name__ == "__main__":
    main()
