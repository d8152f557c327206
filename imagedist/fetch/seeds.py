"""Until when a node seeds a blob, and which go first when there are too many: pure rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from imagedist.config import SeedingTable
from imagedist.oci.digest import Digest

Cause = Literal["time", "ratio", "room"]


@dataclass(slots=True)
class Seed:
    """A blob that is seeded, or was and can be again.

    Attributes:
        asked_at: when it came here, or was last asked for here; seconds since the epoch, as the two others.
        given_bytes: to peers since then.
        given_at: when peers last took some of it.
        is_over: it is not seeded, until it is asked for here again.
    """

    size_bytes: int
    asked_at: float
    given_bytes: int = 0
    given_at: float = 0.0
    is_over: bool = False

    @property
    def wanted_at(self) -> float:
        return max(self.asked_at, self.given_at)


class Seeds:
    """A blob is seeded for ``time`` since it came here or was last asked for here, and until peers were given ``ratio``
    times its size since then. Of more than ``max_torrents`` blobs, or more bytes than ``quota``, those go that nobody,
    here or elsewhere, has wanted for the longest time.

    Args:
        clock: seconds since the epoch; injected by tests.
    """

    def __init__(self, table: SeedingTable, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock
        self._seeds: dict[Digest, Seed] = {}

    def __len__(self) -> int:
        return sum(not seed.is_over for seed in self._seeds.values())

    def began(self, digest: Digest, size_bytes: int) -> None:
        """It is seeded; what is known of it from before goes on, unless it was over."""
        seed = self._seeds.get(digest)
        if seed is None or seed.is_over:
            self._seeds[digest] = Seed(size_bytes, self._clock())

    def asked(self, digest: Digest) -> bool:
        """Somebody on this node wants it: begins anew. Whether it was over, so that it has to be seeded again."""
        seed = self._seeds.get(digest)
        if seed is None:
            return False
        seed.asked_at, seed.given_bytes = self._clock(), 0
        return seed.is_over

    def given(self, digest: Digest, count_bytes: int) -> None:
        seed = self._seeds.get(digest)
        if seed is not None and count_bytes > 0:
            seed.given_bytes += count_bytes
            seed.given_at = self._clock()

    def forget(self, digest: Digest) -> None:
        self._seeds.pop(digest, None)

    def is_over(self, digest: Digest) -> bool:
        seed = self._seeds.get(digest)
        return seed is not None and seed.is_over

    def end(self) -> list[tuple[Digest, Cause]]:
        """Those whose time has come; they are over now."""
        now, table = self._clock(), self._table
        ended: list[tuple[Digest, Cause]] = []
        running: list[tuple[Digest, Seed]] = []
        for digest, seed in self._seeds.items():
            if seed.is_over:
                continue
            if table.time is not None and now - seed.asked_at >= table.time.total_seconds():
                ended.append((digest, "time"))
            elif table.ratio is not None and seed.given_bytes >= table.ratio * seed.size_bytes:
                ended.append((digest, "ratio"))
            else:
                running.append((digest, seed))
        running.sort(key=lambda each: each[1].wanted_at, reverse=True)
        room_bytes = float("inf") if table.quota is None else int(table.quota)
        for count, (digest, seed) in enumerate(running, start=1):
            room_bytes -= seed.size_bytes
            if count > table.max_torrents or room_bytes < 0:
                ended.append((digest, "room"))
        for digest, _ in ended:
            self._seeds[digest].is_over = True
        return ended

    def dump(self) -> bytes:
        """What the next process is to know: a JSON document."""
        rows = {
            str(digest): [seed.size_bytes, int(seed.asked_at), seed.given_bytes, int(seed.given_at), seed.is_over]
            for digest, seed in self._seeds.items()
        }
        return json.dumps({"format": 1, "seeds": rows}).encode()

    def load(self, document: bytes, present: Iterable[Digest]) -> None:
        """Takes what an earlier process knew of the blobs that are still here. Raises ValueError: not our document.

        A clock that was set back meanwhile makes nothing last longer than from now on.
        """
        now = self._clock()
        try:
            rows = json.loads(document)["seeds"]
            for digest in present:
                if (row := rows.get(str(digest))) is not None:
                    size_bytes, asked_at, given_bytes, given_at, is_over = row
                    times = min(float(asked_at), now), min(float(given_at), now)
                    self._seeds[digest] = Seed(int(size_bytes), times[0], int(given_bytes), times[1], bool(is_over))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a document of seeds: {error!r}") from error
