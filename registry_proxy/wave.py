"""The first wave (design.md §4.3): who streams a blob by HTTP while it arrives, and who waits for its torrent.

Worker processes agree on it by a file for each blob, to which everybody appends who has asked and when: the first in
the file stream. A record is one ``write``, which the kernel does not mix with others'.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imagedist.oci.digest import Digest

_BLOBS = 1024
_NODES = 16_384
_RECORD = struct.Struct("<16sd")

Node = bytes


@dataclass(slots=True)
class _Wave:
    """Attributes:
    asked: when each node did first, in the order in which they did.
    first: of the file; another one says that another worker has forgotten the wave and this is the next.
    read_bytes: how many of the file are in ``asked``.
    """

    asked: dict[Node, float] = field(default_factory=dict)
    first: bytes = b""
    read_bytes: int = 0


class Waves:
    """The first ``stream_nodes`` distinct nodes of a blob stream; the others wait, ``wait_seconds`` at most each.

    Bounded: the oldest blobs are forgotten; a node past the number that is kept waits until it gives up itself.

    Args:
        clock: the same one in all workers, such as ``time.monotonic``.
        directory: shared with other workers; None: there are none.
    """

    def __init__(
        self, stream_nodes: int, wait_seconds: float, clock: Callable[[], float], directory: Path | None = None
    ) -> None:
        self._stream_nodes = stream_nodes
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._directory = directory
        self._waves: OrderedDict[Digest, _Wave] = OrderedDict()

    def patience(self, digest: Digest, node: str) -> float:
        """Seconds that this node should still wait for the torrent; 0: stream now. Blocking, microseconds."""
        now = self._clock()
        wave = self._waves.setdefault(digest, _Wave())
        while len(self._waves) > _BLOBS:
            self._waves.popitem(last=False)
        key = hashlib.sha256(node.encode("utf-8", "surrogateescape")).digest()[:16]
        if key not in wave.asked and len(wave.asked) < _NODES:
            self._note(digest, wave, key, now)
        for number, other in enumerate(wave.asked):
            if number == self._stream_nodes:
                break
            if other == key:
                return 0.0
        return max(0.0, wave.asked.get(key, now) + self._wait_seconds - now)

    def forget(self, digest: Digest) -> None:
        """The torrent exists, or the blob will not come: the wave is over."""
        self._waves.pop(digest, None)
        if self._directory is not None:
            self._path(self._directory, digest).unlink(missing_ok=True)

    def _note(self, digest: Digest, wave: _Wave, node: Node, now: float) -> None:
        if self._directory is not None:
            try:
                _append_and_read(self._path(self._directory, digest), wave, node, now)
                return
            except OSError:
                pass  # a full disk: this worker goes on by itself
        wave.asked[node] = now

    @staticmethod
    def _path(directory: Path, digest: Digest) -> Path:
        return directory / f"{digest.hex}.wave"


def _append_and_read(path: Path, wave: _Wave, node: Node, now: float) -> None:
    """Adds the node, then takes over what was added before it, by whomever."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _RECORD.pack(node, now))
        first = os.pread(descriptor, _RECORD.size, 0)
        if first != wave.first:
            wave.asked.clear()
            wave.first, wave.read_bytes = first, 0
        content = os.pread(descriptor, _NODES * _RECORD.size, wave.read_bytes)
    finally:
        os.close(descriptor)
    whole_bytes = len(content) - len(content) % _RECORD.size
    for other, asked in _RECORD.iter_unpack(content[:whole_bytes]):
        wave.asked.setdefault(other, asked)
    wave.read_bytes += whole_bytes
