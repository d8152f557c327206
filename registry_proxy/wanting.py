"""The few nodes that lately were the first to want a blob which the site has: HTTP is faster for them than a swarm.

Each worker process knows of those that asked itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from imagedist.oci.digest import Digest

LATELY_SECONDS = 30.0
_BLOBS = 4096


class Wanting:
    """
    Args:
        few: how many nodes of a blob may be the first.
        clock: seconds, never back.
    """

    def __init__(self, few: int, clock: Callable[[], float]) -> None:
        self._few = few
        self._clock = clock
        self._first: OrderedDict[Digest, dict[str, float]] = OrderedDict()

    def is_among_first(self, digest: Digest, node: str) -> bool:
        """Notes that the node wants the blob. Whether fewer than ``few`` others did before it in the last seconds."""
        now = self._clock()
        asked = {other: at for other, at in self._first.get(digest, {}).items() if now - at < LATELY_SECONDS}
        if node in asked or len(asked) < self._few:
            asked[node] = now
        self._first[digest] = asked
        self._first.move_to_end(digest)
        while len(self._first) > _BLOBS:
            self._first.popitem(last=False)
        return node in asked
