"""The first wave (design.md §4.3): who streams a blob by HTTP while it arrives, and who waits for its torrent. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from imagedist.oci.digest import Digest

_BLOBS = 1024
_NODES = 16_384


class Waves:
    """The first ``stream_nodes`` distinct nodes of a blob stream; the others wait, ``wait_seconds`` at most each.

    Bounded: the oldest blobs are forgotten; a node past the number that is kept waits until it gives up itself.
    """

    def __init__(self, stream_nodes: int, wait_seconds: float, clock: Callable[[], float]) -> None:
        self._stream_nodes = stream_nodes
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._asked: OrderedDict[Digest, dict[str, float]] = OrderedDict()

    def patience(self, digest: Digest, node: str) -> float:
        """Seconds that this node should still wait for the torrent; 0: stream now."""
        now = self._clock()
        nodes = self._asked.setdefault(digest, {})
        while len(self._asked) > _BLOBS:
            self._asked.popitem(last=False)
        if node not in nodes and len(nodes) < self._stream_nodes:
            nodes[node] = float("-inf")
        asked = nodes.get(node)
        if asked is None:
            asked = now
            if len(nodes) < _NODES:
                nodes[node] = now
        return max(0.0, asked + self._wait_seconds - now)

    def forget(self, digest: Digest) -> None:
        """The torrent exists, or the blob will not come: the wave is over."""
        self._asked.pop(digest, None)
