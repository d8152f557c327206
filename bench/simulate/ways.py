"""Which way each node goes: by HTTP first or by the swarm, and from one to the other, as the project's classes say."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.simulate.measured import ANNOUNCE_SECONDS, ANSWER_SECONDS, HASH_BYTES
from bench.simulate.members import Members
from bench.simulate.scenario import Scenario
from bench.simulate.streams import Streams
from bench.simulate.tracking import Tracking
from bench.simulate.upstream import Supply
from imagedist.fetch.handover import Pace
from imagedist.oci.digest import Digest
from registry_proxy.wanting import Wanting
from registry_proxy.wave import Waves
from seeder.tracker.tracker import next_announce_seconds

Indexes = NDArray[np.int64]

_STREAMED_TOGETHER = 2.0
"""Pauses between looks double (imagedist/fetch/handover.py) …"""
_LONGEST_PAUSE_SECONDS = 4.0
"""… up to this."""
_NEARLY_PART = 10


@dataclass
class _Stream:
    """One that may go on by the swarm. ``joined_count``: pieces it had when it joined; -1: it has not."""

    begun_at: float
    look_at: float
    pause: float
    joined_count: int = -1


class Ways:
    """
    Args:
        clock: seconds.

    Attributes:
        has_joined: by member: others may know of it. joined_at: since when; infinite before.
        torrent_bytes: sent so far.
    """

    def __init__(
        self,
        scenario: Scenario,
        supply: Supply,
        nodes: int,
        members: Members,
        streams: Streams,
        tracking: Tracking,
        clock: Callable[[], float],
        dice: random.Random,
    ) -> None:
        self._supply = supply
        self._is_warm = scenario.state == "warm"
        self._nodes = nodes
        self._members = members
        self._streams = streams
        self._tracking = tracking
        self._clock = clock
        self._dice = dice
        self._pace = Pace()
        self._join_seconds = 1 / scenario.join_rate if scenario.join_rate else 0.0
        self._joined_until = 0.0
        self._waves = Waves(scenario.first_wave_nodes, scenario.first_wave_wait, clock)
        self._wanting = Wanting(scenario.first_wave_nodes, clock)
        self._digests = [Digest.of(b"%d" % blob) for blob in range(scenario.layers)]
        self._streaming: dict[int, _Stream] = {}
        self._waiting: list[tuple[float, int]] = []
        self._torrents: deque[int] = deque()
        self._sent_of_first = 0.0
        self._again: list[tuple[float, int]] = []
        self._torrent_bytes = 250 + HASH_BYTES * members.pieces.real_count
        self.torrent_bytes = 0.0
        self._begun = [0] * len(self._digests)
        """Members that have announced, if it was their turn or not: so many the tracker knows when it is this one's."""
        self.has_joined = np.zeros(len(members), np.bool_)
        self.joined_at = np.full(len(members), np.inf)

    def begin(self, nodes: Indexes) -> None:
        """These nodes ask the site for every blob, within milliseconds. Who is early for one is likely to be for the
        next, but not the same ones are the first for each."""
        chance = self._dice.random
        asking = []
        for node in nodes.tolist():
            early = chance()
            asking += [(early + chance(), int(node), blob) for blob in range(len(self._digests))]
        for _, node, blob in sorted(asking):
            self._begin(node, blob, self._digests[blob])

    def _begin(self, node: int, blob: int, digest: Digest) -> None:
        member = blob * self._nodes + node
        if self._clock() >= self._supply.torrent_at:
            is_first = self._wanting.is_among_first(digest, str(node))
            if is_first and self._tracking.counts(blob)[1] < self._pace.others:
                self._stream(member)
            else:
                self._torrents.append(member)
        elif self._waves.patience(digest, str(node)) == 0.0:
            self._stream(member)
        else:
            heapq.heappush(self._waiting, (self._clock() + self._waves.patience(digest, str(node)), member))

    def _stream(self, member: int) -> None:
        now = self._clock() + ANSWER_SECONDS
        self._streaming[member] = _Stream(now, now + self._pace.linger, self._pace.tick)
        self._streams.begin(np.array([member]), is_web_seed=False)

    def leave(self, members: Indexes) -> None:
        """They are switched off."""
        gone = set(members.tolist())
        for member in gone:
            self._streaming.pop(member, None)
        self._waiting = [one for one in self._waiting if one[1] not in gone]
        heapq.heapify(self._waiting)
        self._torrents = deque(member for member in self._torrents if member not in gone)
        self._again = [one for one in self._again if one[1] not in gone]
        heapq.heapify(self._again)
        self.has_joined[members], self.joined_at[members] = False, np.inf

    def go_on(self, room_bytes: float) -> float:
        """Everything that is due. Returns the bytes sent for torrents, of ``room_bytes`` that the site's hosts have."""
        now = self._clock()
        has_torrents = now >= self._supply.torrent_at
        while self._waiting and (has_torrents or self._waiting[0][0] <= now):
            _, member = heapq.heappop(self._waiting)
            if has_torrents:
                self._torrents.append(member)
            else:
                self._stream(member)
        while self._again and self._again[0][0] <= now:
            self.announce(heapq.heappop(self._again)[1])
        for member in [one for one, stream in self._streaming.items() if stream.look_at <= now]:
            self._look(member, self._streaming[member], has_torrents=has_torrents)
        return self._send_torrents(room_bytes)

    def completed(self, members: Indexes) -> None:
        """They have everything now: seeds, once the site has the torrent."""
        for member in members.tolist():
            self._streaming.pop(member, None)
            if self._clock() >= self._supply.torrent_at:
                self.announce(member)
            else:
                heapq.heappush(self._again, (self._supply.torrent_at, member))

    def _join(self, member: int) -> None:
        """Announces it, when it has had its turn with the CPU."""
        if not self._join_seconds:
            self.announce(member)
            return
        self._joined_until = max(self._joined_until, self._clock()) + self._join_seconds
        heapq.heappush(self._again, (self._joined_until, member))

    def announce(self, member: int) -> None:
        blob, node = divmod(member, self._nodes)
        is_beginning = not self.has_joined[member]
        if is_beginning:
            self.has_joined[member] = True
            self._members.moved_at[member] = self.joined_at[member] = self._clock()  # from now on it is watched
        is_seed = bool(self._members.have_count[member] == self._members.pieces.count)
        self._tracking.announce(blob, node, is_seed=is_seed)
        beginning = self._begun[blob] if is_beginning and not is_seed else None
        self._begun[blob] += is_beginning
        later = next_announce_seconds(int(ANNOUNCE_SECONDS), self._dice, beginning)
        heapq.heappush(self._again, (self._clock() + later, member))

    def _look(self, member: int, stream: _Stream, *, has_torrents: bool) -> None:
        """``Handover.run``, for one stream."""
        now = self._clock()
        have = int(self._members.have_count[member])
        if stream.joined_count >= 0:
            stream.look_at = now + self._pace.tick
            in_order = int(np.argmin(self._members.has[member])) if have < self._members.pieces.count else have
            if have > in_order:  # a piece that the stream has not come to: the swarm brought it
                self._streams.end(np.array([member]))
                del self._streaming[member]
            elif self._is_nearly_done(have, stream):
                del self._streaming[member]
            return
        if not has_torrents:
            stream.look_at = max(now, self._supply.torrent_at)
            return
        seeds, partials = self._tracking.counts(member // self._nodes)
        if self._is_nearly_done(have, stream):
            del self._streaming[member]
        elif partials >= self._pace.others or (seeds > 0 and self._left(have, stream)[1] > self._pace.long):
            stream.joined_count = have
            self._join(member)
        else:
            stream.look_at = now + stream.pause
            stream.pause = min(_STREAMED_TOGETHER * stream.pause, _LONGEST_PAUSE_SECONDS)

    def _is_nearly_done(self, have: int, stream: _Stream) -> bool:
        """HTTP has the rest soon."""
        left_bytes, left_seconds = self._left(have, stream)
        return left_bytes <= self._members.pieces.size_bytes / _NEARLY_PART or left_seconds <= self._pace.nearly

    def _left(self, have: int, stream: _Stream) -> tuple[float, float]:
        """Bytes, and seconds at the rate so far."""
        size = self._members.pieces.size_bytes
        came = min(have * self._members.pieces.length, size)
        return size - came, (size - came) * (self._clock() - stream.begun_at) / came if came else math.inf

    def _send_torrents(self, room_bytes: float) -> float:
        """One after the other, before anything else: they are small and everybody waits for them."""
        sent = 0.0
        while self._torrents and sent < room_bytes:
            step = min(self._torrent_bytes - self._sent_of_first, room_bytes - sent)
            sent += step
            self._sent_of_first += step
            if self._sent_of_first >= self._torrent_bytes - 0.5:
                self._sent_of_first = 0.0
                self._join(self._torrents.popleft())
        self.torrent_bytes += sent
        return sent
