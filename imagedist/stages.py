"""What the stages of a pull tell: events, not too many of them, and how long each stage was busy."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict

from imagedist.oci.digest import Digest
from imagedist.progress import STAGES, Event, Kind, Observer

_PAUSE_SECONDS = 0.1
"""Between two events of one kind about one layer: a terminal shows no more, a socket should carry no more."""
_COUNTED: tuple[Kind, ...] = ("fetched", "decoded", "extracted")


class Stages:
    """Of one pull. Any thread may count, the event loop tells. Stages work on several layers at once: seconds add."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._total_bytes: Counter[Kind] = Counter()
        self._untold_bytes: Counter[tuple[Kind, Digest]] = Counter()
        self._extracted_to: Counter[Digest] = Counter()

    def spent(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] += seconds

    def counted(self, kind: Kind, layer: Digest, size_bytes: int) -> None:
        """So many more bytes of a layer were ``fetched`` or ``decoded``."""
        with self._lock:
            self._total_bytes[kind] += size_bytes
            self._untold_bytes[kind, layer] += size_bytes

    def extracted_to(self, layer: Digest, position: int) -> None:
        """So many bytes of a layer's tar were consumed by now."""
        with self._lock:
            new_bytes = max(position - self._extracted_to[layer], 0)
            self._extracted_to[layer] += new_bytes
            self._untold_bytes["extracted", layer] += new_bytes

    async def tell_regularly(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            with self._lock:
                untold, self._untold_bytes = self._untold_bytes, Counter()
            for (kind, layer), size_bytes in untold.items():
                self._tell(kind, layer, size_bytes)

    def extracted(self, layer: Digest, tar_bytes: int) -> None:
        """The layer is extracted: tells what is untold of it."""
        self.extracted_to(layer, tar_bytes)
        with self._lock:
            untold = {kind: self._untold_bytes.pop((kind, layer), 0) for kind in _COUNTED}
            del self._extracted_to[layer]
        self._tell("fetched", layer, untold["fetched"])
        self._tell("decoded", layer, untold["decoded"])
        self._observe(Event(event="extracted", layer=layer, bytes=untold["extracted"], is_complete=True))

    def merged(self, layer: Digest) -> None:
        self._observe(Event(event="merged", layer=layer))

    def done(self, reference: str, image: str, seconds: float) -> None:
        event = Event(
            event="done",
            reference=reference,
            image=image,
            seconds=round(seconds, 3),
            bytes=self._total_bytes["fetched"],
            decoded_bytes=self._total_bytes["decoded"],
            stages={stage: round(self._seconds[stage], 3) for stage in STAGES},
        )
        self._observe(event)

    def _tell(self, kind: Kind, layer: Digest, size_bytes: int) -> None:
        if size_bytes:
            self._observe(Event(event=kind, layer=layer, bytes=size_bytes))
