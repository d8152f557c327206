"""What the stages of a pull tell: events, not too many of them, and how long each stage was busy."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable

from imagedist.oci.digest import Digest
from imagedist.progress import STAGES, Event, Kind, Observer

_PAUSE_SECONDS = 0.1
"""Between two events of one kind about one layer: a terminal shows no more, a socket should carry no more."""


class Stages:
    """Of one pull; belongs to its event loop. Stages work on several layers at once: their seconds add up."""

    def __init__(self, observe: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._observe = observe
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._total_bytes: Counter[Kind] = Counter()
        self._untold_bytes: Counter[tuple[Kind, Digest]] = Counter()
        self._told_at: dict[tuple[Kind, Digest], float] = {}
        self._extracted_to: dict[Digest, int] = {}

    def spent(self, stage: str, seconds: float) -> None:
        self._seconds[stage] += seconds

    def fetched(self, layer: Digest, size_bytes: int) -> None:
        self._count("fetched", layer, size_bytes)

    def decoded(self, layer: Digest, size_bytes: int) -> None:
        self._count("decoded", layer, size_bytes)

    def extracted_to(self, layer: Digest, position: int) -> None:
        """So many bytes of a layer's tar were consumed by now."""
        before = self._extracted_to.get(layer, 0)
        if position > before:
            self._extracted_to[layer] = position
            self._count("extracted", layer, position - before)

    def extracted(self, layer: Digest, tar_bytes: int) -> None:
        """The layer is extracted."""
        self._tell("fetched", layer)
        self._tell("decoded", layer)
        untold_bytes = self._untold_bytes.pop(("extracted", layer), 0)
        rest_bytes = untold_bytes + max(tar_bytes - self._extracted_to.pop(layer, 0), 0)
        self._observe(Event(event="extracted", layer=layer, bytes=rest_bytes, is_complete=True))

    def merged(self, layer: Digest) -> None:
        self._observe(Event(event="merged", layer=layer))

    def done(self, reference: str, image: str, seconds: float) -> Event:
        return Event(
            event="done",
            reference=reference,
            image=image,
            seconds=round(seconds, 3),
            bytes=self._total_bytes["fetched"],
            decoded_bytes=self._total_bytes["decoded"],
            stages={stage: round(self._seconds[stage], 3) for stage in STAGES},
        )

    def _count(self, kind: Kind, layer: Digest, size_bytes: int) -> None:
        self._total_bytes[kind] += size_bytes
        self._untold_bytes[kind, layer] += size_bytes
        now = self._clock()
        if now - self._told_at.get((kind, layer), 0.0) >= _PAUSE_SECONDS:
            self._told_at[kind, layer] = now
            self._tell(kind, layer)

    def _tell(self, kind: Kind, layer: Digest) -> None:
        size_bytes = self._untold_bytes.pop((kind, layer), 0)
        if size_bytes:
            self._observe(Event(event=kind, layer=layer, bytes=size_bytes))
