"""One site's burst, step by step of time: links are shared, bytes move, pieces become whole, nodes ask for more."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from bench.simulate.flows import evenly_bound, fair_rates
from bench.simulate.helping import Helping
from bench.simulate.hosts import Hosts
from bench.simulate.links import Links
from bench.simulate.measured import (
    ACKNOWLEDGEMENTS,
    ANNOUNCES_PER_SECOND,
    COUNTED_HEADERS,
    HAVE_BYTES,
    HEADERS,
    JOIN_SECONDS,
    LOST_SECONDS,
    NEIGHBOURS,
    PROXY_AGAIN,
    SEEDER_AGAIN,
    SITE_WEIGHT,
    TRACKER_BYTES,
    UPSTREAM_ACKNOWLEDGEMENTS,
)
from bench.simulate.members import Members
from bench.simulate.outcome import Outcome
from bench.simulate.pieces import pieces_of
from bench.simulate.population import Population
from bench.simulate.scenario import Scenario
from bench.simulate.streams import Streams
from bench.simulate.tracking import Tracking
from bench.simulate.trading import Trading, slots_of
from bench.simulate.upstream import Supply
from bench.simulate.ways import Ways

Indexes = NDArray[np.int64]
Floats = NDArray[np.float64]

_STEPS, _CROWD_STEPS = 500, 200
"""64 nodes, p50 ÷ plain: 100 steps 1.22, 250 1.19, 500 1.17, 1,000 1.17."""
_CROWD = 4000
"""Members; with more a run would take minutes. But never so few steps that a node whose link is full gets more than
one piece by each of its slots in one: what is asked for next moves in the next step only, or in what is left of this
one, and links would stay empty meanwhile."""
_END_GAME_STEPS = 4
"""Whether idle peers can help is looked at each so many steps."""
_LONGEST_TIMES = 10.0
"""So many times as long as the slowest node's link or the site's takes for one image, and a minute: then a run ends,
whoever is not done."""


@dataclass
class _Moved:
    """Flows of one step: over links, of seeders, by HTTP, in this order.

    Attributes:
        sender, member, piece: of each flow; senders are nodes and, behind them, hosts.
        bytes_of: that it moved.
        link: number of each link that is a flow. served: how many flows are of seeders.
        is_web_seed: of each flow by HTTP.
    """

    sender: Indexes
    member: Indexes
    piece: Indexes
    bytes_of: Floats
    link: Indexes
    served: int
    is_web_seed: NDArray[np.bool_]

    @property
    def seeders(self) -> slice:
        return slice(len(self.link), len(self.link) + self.served)

    @property
    def http(self) -> slice:
        return slice(len(self.link) + self.served, None)


class Burst:
    """``run`` once.

    Args:
        supply: when the image is in the site.
        ended: is told the simulated seconds and the share of the nodes that are done, now and then.
    """

    def __init__(
        self,
        scenario: Scenario,
        population: Population,
        supply: Supply,
        seed: int,
        ended: Callable[[float, float], None] = lambda seconds, share: None,
    ) -> None:
        self._scenario = scenario
        self._population = population
        self._supply = supply
        self._ended = ended
        self.now = 0.0
        nodes, blobs = len(population), scenario.layers
        dice, coins = np.random.default_rng(seed), random.Random(seed)
        self._pieces = pieces_of(scenario.blob_bytes, nodes * blobs, scenario.pieces)
        self._members = Members(nodes * blobs, self._pieces, dice)
        self._links = Links(self._members)
        slots = slots_of(self._pieces.coarseness)
        self._trading = Trading(self._members, self._links, slots)
        self._streams = Streams(self._members, self._trading)
        wanted = scenario.neighbours or NEIGHBOURS
        self._tracking = Tracking(blobs, self._clock, ANNOUNCES_PER_SECOND, wanted, coins)
        self._hosts = Hosts(
            scenario, nodes, self._members, self._trading, self._clock, lambda blob: self._tracking.counts(blob)[0]
        )
        parts = (self._members, self._streams, self._tracking)
        self._ways = Ways(scenario, supply, nodes, *parts, self._clock, coins)
        self._helping = Helping(self._members, self._streams, nodes, self._clock)
        self._egress = scenario.site_egress / HEADERS
        self._ideal = scenario.size / float(np.median(population.down))
        fewest = _STEPS if nodes * blobs <= _CROWD else _CROWD_STEPS
        steps = scenario.steps or max(fewest, round(blobs * self._pieces.count / (slots or NEIGHBOURS)))
        self._step_seconds = self._ideal / steps
        self._starts = np.where(population.is_preheated, np.inf, population.starts)
        self._seconds = np.full(nodes, np.nan)
        self._connecting: list[tuple[float, int, list[int]]] = []
        self._closing: list[tuple[float, Indexes]] = []
        self._dies = population.dies.copy()
        self._back = np.full(nodes, np.inf)
        self._began_at = np.full(nodes, np.nan)
        self._sent = np.zeros(nodes + scenario.seeders)
        self._received = dict.fromkeys(("peer", "seeder", "webseed", "proxy"), 0.0)
        self._told = 0

    def _clock(self) -> float:
        return self.now

    def run(self) -> Outcome:
        """Until every node that is there is done."""
        self._preheat()
        scenario = self._scenario
        slowest = min(float(self._population.down.min()), self._egress * scenario.seeders)
        longest = _LONGEST_TIMES * scenario.size / slowest + 60 + self._supply.ends_at + scenario.arrival
        step = 0
        while self.now < longest and not self._is_over():
            self._come_and_go()
            torrent_bytes = self._ways.go_on(self._egress * self._scenario.seeders * self._step_seconds)
            self._connect()
            self._hosts.flow()
            self._streams.go_on()
            moved = self._move(torrent_bytes)
            self.now += self._step_seconds
            self._settle(moved)
            if self._scenario.web_seeds:
                is_swarming = self._ways.has_joined & ~self._members.is_done
                self._helping.look(
                    is_swarming, (self._links.degree > 0) | self._hosts.is_connected, self._ways.joined_at
                )
            step += 1
            if step % _END_GAME_STEPS == 0:
                ending = np.flatnonzero((self._members.lack_count == 0) & self._ways.has_joined)
                self._trading.end(ending)
                self._ended(self.now, float(np.mean(np.isfinite(self._seconds) | self._population.is_preheated)))
        return self._outcome()

    def _preheat(self) -> None:
        before = np.flatnonzero(self._population.is_preheated)
        self._members.fill(self._members_of(before))
        for node in before.tolist():
            for blob in range(self._scenario.layers):
                self._tracking.remember(blob, node)

    def _is_over(self) -> bool:
        return not np.isnan(self._seconds[~self._population.is_preheated]).any()

    def _members_of(self, nodes: Indexes) -> Indexes:
        return (nodes[None, :] + len(self._population) * np.arange(self._scenario.layers)[:, None]).ravel()

    def _come_and_go(self) -> None:
        """Nodes begin; nodes are switched off, which their peers notice later; nodes are back."""
        for closing in [one for one in self._closing if one[0] <= self.now]:
            self._closing.remove(closing)
            links = closing[1]
            targets = self._links.target[self._links.close(links)]
            self._trading.ask(self._links_to(np.unique(targets)))
        back = np.flatnonzero(self._back <= self.now)
        if len(back):
            self._members.clear(self._members_of(back))
            self._starts[back], self._back[back] = self.now, np.inf
        beginning = np.flatnonzero(self._starts <= self.now)
        if len(beginning):
            self._began_at[beginning], self._starts[beginning] = self._starts[beginning], np.inf
            self._ways.begin(beginning)
        dying = np.flatnonzero(self._dies <= self.now)
        if len(dying):
            self._dies[dying] = np.inf
            self._die(dying)

    def _die(self, nodes: Indexes) -> None:
        members = self._members_of(nodes)
        unfinished = nodes[np.isnan(self._seconds[nodes])]
        self._back[unfinished] = self.now + self._scenario.churn.back
        self._starts[unfinished] = np.inf
        self._ways.leave(members)
        self._streams.end(members)
        self._helping.leave(members)
        for member in members.tolist():
            self._hosts.leave(member)
        gone = set(members.tolist())
        self._connecting = [one for one in self._connecting if one[1] not in gone]
        links, there = self._links.of(members)
        links = links[there]
        self._links.is_served[np.concatenate([links, links ^ 1])] = False
        self._closing.append((self.now + LOST_SECONDS, links))

    def _connect(self) -> None:
        """Answers of the tracker that are due, and what was dialled some time ago."""
        nodes = len(self._population)
        for blob, node, introduced in self._tracking.answers():
            member = blob * nodes + node
            self._helping.is_introduced[member] = True
            if self._ways.has_joined[member]:
                peers = [blob * nodes + other for other in introduced]
                self._connecting.append((self.now + JOIN_SECONDS, member, peers))
        due = list(takewhile(lambda one: one[0] <= self.now, self._connecting))
        if not due:
            return
        del self._connecting[: len(due)]
        ones = np.array([member for _, member, peers in due for _ in peers], np.int64)
        others = np.array([peer for _, _, peers in due for peer in peers], np.int64)
        is_there = self._ways.has_joined[others] | np.isin(
            others % nodes, np.flatnonzero(self._population.is_preheated)
        )
        self._trading.ask(self._links.connect(ones[is_there], others[is_there]))
        for _, member, _ in due:
            self._hosts.connect(member)

    def _move(self, torrent_bytes: float) -> _Moved:
        nodes, links, hosts, streams = len(self._population), self._links, self._hosts, self._streams
        coming = links.coming
        coming = coming[links.is_served[coming]]
        served = len(hosts.member)
        streaming = np.flatnonzero(streams.piece >= 0)
        by_http = streams.member[streaming]
        sender = np.concatenate(
            [links.source[coming] % nodes, nodes + hosts.host, nodes + by_http % self._scenario.seeders]
        )
        member = np.concatenate([links.target[coming], hosts.member, by_http])
        piece = np.concatenate([links.piece[coming], hosts.piece, streams.piece[streaming]])
        is_trading = self._ways.has_joined.reshape(-1, nodes).any(0)
        payload = np.where(is_trading, HEADERS / (HEADERS + ACKNOWLEDGEMENTS), 1.0)
        egress = self._egress - torrent_bytes / self._scenario.seeders / self._step_seconds
        up = np.concatenate([self._population.up * payload, np.full(self._scenario.seeders, max(egress, 0.0))])
        down = self._population.down * payload
        most = None
        if self._supply.present_bytes(self.now) < self._supply.blob_bytes:
            present = self._supply.present_bytes(self.now + self._step_seconds)
            most = np.full(len(member), np.inf)
            most[len(coming) + served :] = np.maximum(present - streams.positions()[streaming], 0) / self._step_seconds
        weight = np.where(sender < nodes, 1.0, SITE_WEIGHT)
        rates = fair_rates(sender, member % nodes, up, down, most, weight)
        if self._scenario.cpu_rate is not None:
            rates = evenly_bound(rates, member % nodes, nodes, self._scenario.cpu_rate)
        return _Moved(sender, member, piece, rates * self._step_seconds, coming, served, streams.is_web_seed[streaming])

    def _settle(self, moved: _Moved) -> None:
        """Books what moved; what became whole is told, and who is idle asks for more."""
        members, links = self._members, self._links
        members.take(moved.member, moved.piece, moved.bytes_of)
        self._hosts.sent(moved.bytes_of[moved.seeders])
        unused = np.zeros(len(moved.member))
        whole = np.flatnonzero(members.left[moved.member, moved.piece] <= 0.5)
        if len(whole):
            keys, first = np.unique(moved.member[whole] * self._pieces.count + moved.piece[whole], return_index=True)
            member, piece = np.divmod(keys, self._pieces.count)
            flow = whole[first]
            spare = np.maximum(-members.left[member, piece].astype(np.float64), 0.0)
            members.left[member, piece] = 0.0
            done_before = np.isfinite(members.done_at[member])
            members.complete(member, piece, self.now)
            links.piece[moved.link[whole[whole < len(moved.link)]]] = -1
            told = self._trading.told(member, piece)
            free = moved.link[whole[whole < len(moved.link)]]
            self._trading.ask(np.concatenate([told, self._trading.freed(free)]))
            self._tell_hosts(member, piece)
            self._hosts.flow()
            self._streams.go_on()
            unused[flow] = self._carry(moved, flow, spare)
            self._finish(np.unique(member[np.isfinite(members.done_at[member]) & ~done_before]))
        self._book(moved, moved.bytes_of - unused)

    def _tell_hosts(self, member: Indexes, piece: Indexes) -> None:
        """Pieces of each member together; only who is connected tells."""
        there = self._hosts.is_connected[member]
        member, piece = member[there], piece[there]
        self._told += len(member)
        if not len(member):
            return
        starts = np.flatnonzero(np.diff(member, prepend=-1))
        for one, pieces in zip(member[starts].tolist(), np.split(piece, starts[1:]), strict=True):
            self._hosts.got(one, pieces.tolist())

    def _carry(self, moved: _Moved, flow: Indexes, spare: Floats) -> Floats:
        """What a flow could move after its piece was whole counts for its next piece. Returns what there was none for.

        Args:
            flow: that ended with a whole piece.
            spare: bytes of each.
        """
        unused = spare.copy()
        nodes = len(self._population)
        streams = dict(zip(self._streams.member.tolist(), self._streams.piece.tolist(), strict=True))
        by_link = flow < len(moved.link)
        next_piece = np.full(len(flow), -1, np.int64)
        next_piece[by_link] = self._links.piece[moved.link[flow[by_link]]]
        for number in np.flatnonzero(~by_link).tolist():
            one, member = int(flow[number]), int(moved.member[flow[number]])
            if one < moved.http.start:
                at = self._hosts.at.get((int(moved.sender[one]) - nodes, member))
                next_piece[number] = -1 if at is None else self._hosts.piece[at]
            else:
                next_piece[number] = streams.get(member, -1)
        has_next = next_piece >= 0
        at_most = np.minimum(spare[has_next], self._members.left[moved.member[flow[has_next]], next_piece[has_next]])
        self._members.take(moved.member[flow[has_next]], next_piece[has_next], at_most)
        unused[has_next] -= at_most
        return unused

    def _finish(self, members: Indexes) -> None:
        """They have everything of their blob now."""
        if not len(members):
            return
        self._ways.completed(members)
        nodes = len(self._population)
        for node in np.unique(members % nodes).tolist():
            if np.isfinite(self._members.done_at[node::nodes]).all() and np.isnan(self._seconds[node]):
                self._seconds[node] = self.now - self._began_at[node]

    def _book(self, moved: _Moved, bytes_of: Floats) -> None:
        self._sent += np.bincount(moved.sender, bytes_of, len(self._sent))
        of_http = moved.http.start
        is_web = moved.is_web_seed
        self._received["peer"] += float(bytes_of[: len(moved.link)].sum())
        self._received["seeder"] += float(bytes_of[moved.seeders].sum())
        self._received["webseed"] += float(bytes_of[of_http:][is_web].sum())
        self._received["proxy"] += float(bytes_of[of_http:][~is_web].sum())
        moving = bytes_of > 0
        self._helping.came_at[moved.member[moving]] = self.now
        count = len(self._members)
        self._helping.by_peers += np.bincount(moved.member[:of_http], bytes_of[:of_http], count)
        self._helping.by_web += np.bincount(moved.member[of_http:], bytes_of[of_http:], count)

    def _links_to(self, members: Indexes) -> Indexes:
        links, there = self._links.of(members)
        return links[there] ^ 1

    def _site_bytes(self) -> float:
        """That left the site's hosts, as the counters of their links have them; see ``measured``."""
        scenario, received = self._scenario, self._received
        by_http = PROXY_AGAIN * (received["proxy"] + received["webseed"]) + self._ways.torrent_bytes
        arrived = 0 if scenario.state == "warm" else scenario.size
        return (
            COUNTED_HEADERS * (SEEDER_AGAIN * received["seeder"] + by_http)
            + HAVE_BYTES * self._told * self._pieces.coarseness
            + TRACKER_BYTES * self._tracking.answered * scenario.seeders
            + UPSTREAM_ACKNOWLEDGEMENTS * arrived
        )

    def _outcome(self) -> Outcome:
        seconds = self._seconds[~self._population.is_preheated]
        torrents = self._ways.torrent_bytes
        return Outcome(
            seconds=seconds[~np.isnan(seconds)],
            unfinished=int(np.isnan(seconds).sum()),
            received_bytes=dict(self._received),
            site_bytes=self._site_bytes(),
            upstream_bytes=0.0,
            torrent_bytes=torrents * COUNTED_HEADERS,
            announces=self._tracking.answered,
            announce_wait_seconds=self._tracking.longest_wait_seconds,
            seeder_connections=max(seeder.peak_connections for seeder in self._hosts.seeders),
            coarseness=self._pieces.coarseness,
            sent_bytes=self._sent,
        )
