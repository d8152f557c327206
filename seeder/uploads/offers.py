"""Which piece of a torrent the seeder offers to which peer next. Pure; the clock is injected.

A peer can ask only for what it was offered (a *have* message to it alone, as in super-seeding, BEP 16), so the seeder
decides what leaves the site. In this order:

1. a piece that no peer has and nobody was offered: each is given away once before any twice, the first ones first;
2. while less than ``copies`` whole blobs were sent: what the fewest have, so that the start is quick;
3. to a peer that gets nothing, or much less than it once did, from others, and to the second half of a burst when the
   first half has everything: whatever it lacks. So a lone peer, one whom the others cannot reach, and the last ones get
   all they can take.

When peers that had the only copy of a piece leave, rule 1 holds for it again.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from imagedist.swarm.torrent import TorrentFacts

_RATE_SECONDS, _BEST_SECONDS = 3.0, 8.0
"""Over which rates are averaged, and the best one: pieces that became whole at the same moment are no rate."""
_PATIENCE_SECONDS = 3.0
_PATIENCE_TIMES = 4.0
_LONGEST_PATIENCE_SECONDS = 30.0
"""An offer this old, or so many times older than offers of the torrent usually get, does not count any more. One peer
that slept for an hour does not say what is usual."""
_GRADUATE_SECONDS = 60.0
"""A peer that has everything is taken for a seed this long; then the tracker's count knows."""
_QUIET_SECONDS = 10.0
"""Without an incomplete peer this long, the next one begins a new burst."""
_FEWEST_OFFERS = 2
_UNDER_WAY_BYTES = 64 << 20
_QUICK_SECONDS, _SLOW_SECONDS = 0.3, 1.0
_SCANNED = 64
"""Peers looked at for one offer at most."""
_RARE = 3
"""Up to so many copies, the rarest is told from the second rarest."""

_TURNS_OF_HOST = 16
"""Connections of one address that are sent to at a time: half a megabyte waits in the process for each."""
_ASKED_TIMES = 3
"""A block may be asked for again, when it was cancelled or had rotted on its way; not for ever."""

_LACKS, _OFFERED, _LATE, _HAS = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Pace:
    """How generous the seeder is.

    32 nodes with 8 neighbours each, p50, p90 and max ÷ ideal, copies sent: one copy and a share of 0.5: 1.06, 1.08,
    1.12, 1.2; 1.8 copies: no quicker. 48 nodes: 1.07, 1.09, 1.12, 1.3.

    Args:
        copies: whole blobs that a burst gets without need.
        starving_share: of its best rate; a peer that gets less from others gets from us,
        relief_copies: until so many more whole blobs were sent; then it must get less than ``destitute_share``. As many
            again are for the last ones of a burst.
    """

    copies: float = 1.0
    starving_share: float = 0.5
    relief_copies: float = 0.5
    destitute_share: float = 0.1


@dataclass(frozen=True, slots=True)
class Part:
    """Which of the site's seeders of one blob this is, and how many those are. ``rank`` from 0."""

    rank: int = 0
    replicas: int = 1


class Rate:
    """Bytes per second, averaged; older bytes count less."""

    def __init__(self, clock: Callable[[], float], seconds: float = _RATE_SECONDS) -> None:
        self._clock = clock
        self._seconds = seconds
        self._rate = 0.0
        self._as_of = clock()

    def add(self, size_bytes: int) -> None:
        self._rate = self.now() + size_bytes / self._seconds
        self._as_of = self._clock()

    def now(self) -> float:
        return self._rate * math.exp((self._as_of - self._clock()) / self._seconds)


class Host:
    """What one address gets, of all torrents.

    Attributes:
        is_late: it left with offers that it had not taken up, and has taken none in time since. Its next connection is
            late from the start, else it could fill the seeder's window by coming and going.
        left_at: when its last connection ended.
        turns: of its connections that read and send, so that they do not fill the memory.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.of_others = Rate(clock)
        self._of_all = Rate(clock, _BEST_SECONDS)
        self._best = 0.0
        self.connections = 0
        self.is_late = False
        self.left_at = 0.0
        self.turns = asyncio.Semaphore(_TURNS_OF_HOST)

    def got(self, size_bytes: int, *, is_ours: bool) -> None:
        if not is_ours:
            self.of_others.add(size_bytes)
        self._of_all.add(size_bytes)
        self._best = max(self._best, self._of_all.now())

    def is_starving(self, share: float) -> bool:
        return self.of_others.now() < share * self._best if self._best else True


@dataclass(slots=True)
class _Offer:
    at: float
    asked_bytes: int = 0
    sent_bytes: int = 0
    is_old: bool = False

    @property
    def is_held(self) -> bool:
        """Whether it keeps the peer from getting another."""
        return not self.is_old or self.sent_bytes > 0


@dataclass(eq=False)
class Taker:
    """One incomplete peer of one torrent.

    Attributes:
        pieces: what it has, lacks or was offered, a byte each.
        limit, holds: how many offers it may hold at a time, and how many it does; old ones that it left alone are none.
        is_late: it let an offer grow old. What it is offered does not count, so that others get it, too.
    """

    host: Host
    tell: Callable[[int], None]
    pieces: bytearray
    has_count: int = 0
    limit: int = _FEWEST_OFFERS
    is_late: bool = False
    holds: int = 0
    offers: dict[int, _Offer] = field(default_factory=dict)


class Offers:
    """One torrent.

    Args:
        pace: see there.
        clock: seconds.

    Attributes:
        part: several seeders begin at different pieces and share the copies; by the peers' haves each knows what others
            gave.
    """

    def __init__(self, facts: TorrentFacts, pace: Pace, clock: Callable[[], float]) -> None:
        self.facts = facts
        self.sent_bytes = 0
        self.under_way_bytes = 0
        self.seeds_elsewhere = 0
        """As the tracker last counted."""
        self.offered_at = clock()
        self.part = Part()
        self._pace = pace
        self._clock = clock
        self._takers: deque[Taker] = deque()
        self._holders = [0] * facts.piece_count
        """Of each piece: peers that have it or were offered it lately."""
        self._rarity = bytearray(facts.piece_count)
        """The same up to ``_RARE``, to be searched quickly."""
        self._usual_seconds = 0.0
        self._graduates: deque[float] = deque()
        self._quiet_since = clock()

    @property
    def incomplete(self) -> int:
        """Peers that lack something."""
        return len(self._takers)

    @property
    def copies_sent(self) -> float:
        """In this burst."""
        return self.sent_bytes / self.facts.size_bytes

    def join(self, host: Host, pieces: Collection[int], tell: Callable[[int], None]) -> Taker:
        """A new peer that has these pieces, but not all. ``tell``: offers it a piece."""
        now = self._clock()
        if not self._takers and now - self._quiet_since > _QUIET_SECONDS:
            self.sent_bytes = 0
        taker = Taker(host, tell, bytearray(self.facts.piece_count), is_late=host.is_late)
        self._takers.append(taker)
        for piece in pieces:
            taker.pieces[piece] = _HAS
            self._count(piece, 1)
        taker.has_count = len(set(pieces))
        return taker

    def leave(self, taker: Taker) -> None:
        """It is gone, and what it had with it, unless it had everything: then it is somewhere, and seeds."""
        if taker not in self._takers:
            return
        self._forget(taker)
        if taker.is_late or any(not offer.sent_bytes for offer in taker.offers.values()):
            taker.host.is_late = True
        for piece, state in enumerate(taker.pieces):
            if state in (_HAS, _OFFERED):
                self._count(piece, -1)

    def got(self, taker: Taker, pieces: Iterable[int]) -> bool:
        """The peer has these pieces now. Returns whether it has everything: then it has left."""
        now = self._clock()
        for piece in pieces:
            state = taker.pieces[piece]
            if state == _HAS:
                continue
            taker.pieces[piece] = _HAS
            taker.has_count += 1
            if (offer := taker.offers.pop(piece, None)) is not None:
                taker.holds -= offer.is_held
            if state != _OFFERED:
                self._count(piece, 1)
            else:
                self.under_way_bytes -= self.piece_bytes(piece)
            is_ours = offer is not None and offer.sent_bytes > 0
            taker.host.got(self.piece_bytes(piece), is_ours=is_ours)
            if offer is not None and is_ours:
                self._learn(taker, now - offer.at)
        if taker.has_count < self.facts.piece_count:
            return False
        if taker in self._takers:
            self._forget(taker)
            # Its copies stay counted until its time as a graduate is over.
            self._graduates.append(now)
        return True

    def ask(self, taker: Taker, piece: int, size_bytes: int) -> bool:
        """Whether a request is for something that was offered, and not for the umpteenth time. It is counted then."""
        offer = taker.offers.get(piece)
        if offer is None or offer.asked_bytes + size_bytes > _ASKED_TIMES * self.facts.piece_length:
            return False
        offer.asked_bytes += size_bytes
        return True

    def cancel(self, taker: Taker, piece: int, size_bytes: int) -> None:
        """A request that is not answered does not count."""
        if (offer := taker.offers.get(piece)) is not None:
            offer.asked_bytes -= size_bytes

    def sent(self, taker: Taker, piece: int, size_bytes: int) -> None:
        self.sent_bytes += size_bytes
        if (offer := taker.offers.get(piece)) is not None:
            was_held = offer.is_held
            offer.sent_bytes += size_bytes
            taker.holds += offer.is_held - was_held

    def offer(self, room_bytes: float) -> bool:
        """Makes the next offer, if there is one to make that fits into ``room_bytes``. Returns whether it did."""
        for _ in range(min(_SCANNED, len(self._takers))):
            taker = self._takers[0]
            self._takers.rotate(-1)
            if taker.holds >= taker.limit or (piece := self._choose(taker)) is None:
                continue
            size_bytes = self.piece_bytes(piece)
            if size_bytes > room_bytes:
                self._takers.rotate(1)
                return False
            self.offered_at = self._clock()
            taker.offers[piece] = _Offer(self.offered_at)
            taker.holds += 1
            if taker.is_late:
                taker.pieces[piece] = _LATE
            else:
                taker.pieces[piece] = _OFFERED
                self.under_way_bytes += size_bytes
                self._count(piece, 1)
            taker.tell(piece)
            return True
        return False

    def tick(self) -> None:
        """Offers that nobody took up do not count any more; graduates become the tracker's. Every 0.25 s or so."""
        now = self._clock()
        patience = self._patience()
        for taker in self._takers:
            for piece, offer in taker.offers.items():
                if offer.is_old or now - offer.at <= patience:
                    continue
                offer.is_old = True
                taker.is_late = True
                taker.limit = _FEWEST_OFFERS
                taker.holds -= not offer.sent_bytes  # it does not want this one now: something else, perhaps
                if taker.pieces[piece] == _OFFERED:
                    taker.pieces[piece] = _LATE
                    self.under_way_bytes -= self.piece_bytes(piece)
                    self._count(piece, -1)
        expired = 0
        while self._graduates and now - self._graduates[0] > _GRADUATE_SECONDS:
            self._graduates.popleft()
            expired += 1
        if expired:  # a thousand at once, after a burst of as many
            for piece in range(self.facts.piece_count):
                self._count(piece, -expired)

    def piece_bytes(self, piece: int) -> int:
        length = self.facts.piece_length
        return min(length, self.facts.size_bytes - piece * length)

    def _choose(self, taker: Taker) -> int | None:
        is_generous = (
            not taker.is_late and not self._has_seeds and self.copies_sent < self._pace.copies / self.part.replicas
        )
        is_in_need = taker.host.is_starving(self._share()) or self._is_straggling(taker)
        if not is_generous and not is_in_need:
            return None if self._has_seeds else self._lacked(taker, 0)
        for holders in range(_RARE):
            if (piece := self._lacked(taker, holders)) is not None:
                return piece
        piece = taker.pieces.find(_LACKS)
        return piece if piece >= 0 else None

    def _lacked(self, taker: Taker, holders: int) -> int | None:
        """The first piece with so many holders that the peer lacks; round about, from where our part begins."""
        begin = self.facts.piece_count * self.part.rank // self.part.replicas
        for start, end in ((begin, self.facts.piece_count), (0, begin)):
            piece = self._rarity.find(holders, start, end)
            while piece >= 0:
                if taker.pieces[piece] == _LACKS:
                    return piece
                piece = self._rarity.find(holders, piece + 1, end)
        return None

    def _share(self) -> float:
        """Once much was sent, only who gets next to nothing is in need.

        A site whose nodes are all slow, for want of CPU or for their upload caps, is not served by the seeder alone.
        """
        return self._pace.destitute_share if self._has_sent_beyond(1) else self._pace.starving_share

    def _is_straggling(self, taker: Taker) -> bool:
        """Half of the burst has everything, and this one most of it: it shall not be much later."""
        is_second_half = len(self._graduates) >= len(self._takers)
        has_most = 2 * taker.has_count > self.facts.piece_count
        return is_second_half and has_most and not self._has_sent_beyond(2)

    def _has_sent_beyond(self, reliefs: int) -> bool:
        return self.copies_sent >= (self._pace.copies + reliefs * self._pace.relief_copies) / self.part.replicas

    @property
    def _has_seeds(self) -> bool:
        return self.seeds_elsewhere > 0 or bool(self._graduates)

    def _patience(self) -> float:
        return min(max(_PATIENCE_SECONDS, _PATIENCE_TIMES * self._usual_seconds), _LONGEST_PATIENCE_SECONDS)

    def _learn(self, taker: Taker, seconds: float) -> None:
        self._usual_seconds += (min(seconds, _LONGEST_PATIENCE_SECONDS) - self._usual_seconds) / 8
        if seconds <= self._patience():
            taker.is_late = taker.host.is_late = False
        if seconds < _QUICK_SECONDS:
            taker.limit = min(taker.limit + 1, max(_FEWEST_OFFERS, _UNDER_WAY_BYTES // self.facts.piece_length))
        elif seconds > _SLOW_SECONDS:
            taker.limit = max(taker.limit - 1, _FEWEST_OFFERS)

    def _forget(self, taker: Taker) -> None:
        self._takers.remove(taker)
        self._quiet_since = self._clock()
        for piece in taker.offers:
            if taker.pieces[piece] == _OFFERED:
                self.under_way_bytes -= self.piece_bytes(piece)

    def _count(self, piece: int, change: int) -> None:
        self._holders[piece] += change
        self._rarity[piece] = min(self._holders[piece], _RARE)
