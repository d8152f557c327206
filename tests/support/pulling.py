"""Clients of many nodes that read one blob from their agents at once, hash it, and say how far they are."""

from __future__ import annotations

import hashlib
import http.client
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.network import Node
from imagedist.oci.digest import Digest

_MIRROR_PORT = 5050
_CHUNK_BYTES = 1 << 16
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Pulled:
    """What one client got.

    Attributes:
        digest: of all its bytes; None: it did not get them.
        failure: why not.
        silence_seconds: the longest time in which nothing came, the wait for the first byte included.
    """

    digest: Digest | None
    failure: str
    seconds: float
    silence_seconds: float


class Pull:
    """One request from each node, all at once, none of them repeated.

    Args:
        path: of the blob, on every node's mirror.
        patience_seconds: the longest that a client waits for a byte.
    """

    def __init__(self, nodes: Sequence[Node], path: str, patience_seconds: float) -> None:
        self.nodes = tuple(nodes)
        self._path = path
        self._patience_seconds = patience_seconds
        self._before = {node: node.down.bytes for node in nodes}
        self._done: dict[Node, Pulled] = {}
        self._threads = [threading.Thread(target=self._run, args=(node,)) for node in nodes]
        for thread in self._threads:
            thread.start()

    @property
    def is_over(self) -> bool:
        return len(self._done) == len(self.nodes)

    def wait_carried(self, bytes_each: float) -> None:
        """Returns when half of the nodes' links have carried so much. Raises AssertionError: it was over before."""
        while not self.is_over:
            if statistics.median(node.down.bytes - before for node, before in self._before.items()) >= bytes_each:
                return
            time.sleep(_POLL_SECONDS)
        raise AssertionError(f"the pull was over before it was half-way: {self._done}")

    def wait_done(self) -> Mapping[Node, Pulled]:
        """What each node's client got, once all are done."""
        for thread in self._threads:
            thread.join()
        return dict(self._done)

    def _run(self, node: Node) -> None:
        began = heard = time.monotonic()
        digest, failure, silence = None, "", 0.0
        sha256 = hashlib.sha256()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", _MIRROR_PORT, timeout=self._patience_seconds)
            with node.namespace.entered():
                connection.connect()
            connection.request("GET", self._path)
            answer = connection.getresponse()
            while chunk := answer.read(_CHUNK_BYTES):
                now = time.monotonic()
                silence, heard = max(silence, now - heard), now
                if answer.status == 200:
                    sha256.update(chunk)
                else:
                    failure = f"{answer.status} {chunk[:200]!r}"
            silence = max(silence, time.monotonic() - heard)
            if answer.length:  # read(n) says nothing of it
                failure = failure or f"the body broke off {answer.length} bytes before its end"
            connection.close()
            digest = None if failure else Digest("sha256", sha256.hexdigest())
        except (OSError, http.client.HTTPException) as error:
            failure = f"{type(error).__name__}: {error}"
        self._done[node] = Pulled(digest, failure, time.monotonic() - began, silence)
