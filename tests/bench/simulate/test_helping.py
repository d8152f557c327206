"""When a member of the model takes the web seed: as the agent's own patience says."""

from __future__ import annotations

import numpy as np

from bench.simulate.helping import Helping
from bench.simulate.links import Links
from bench.simulate.measured import TRACKER_SECONDS
from bench.simulate.members import Members
from bench.simulate.pieces import pieces_of
from bench.simulate.streams import Streams
from bench.simulate.trading import Trading
from imagedist.fetch.watch import Patience

ALL = np.ones(2, np.bool_)
NONE = ~ALL
PATIENCE = Patience()


class _Node:
    """One node and two blobs, of which it gets nothing unless a test says so; both joined at 0."""

    def __init__(self, pieces: int | None = None) -> None:
        self.now = 0.0
        self.members = Members(2, pieces_of(8_800_000, 2, pieces), np.random.default_rng(1))
        self.streams = Streams(self.members, Trading(self.members, Links(self.members)))
        self.helping = Helping(self.members, self.streams, 1, lambda: self.now)

    def helped_at(self, is_connected: np.ndarray, *, other_comes: bool = False, until: float = 40.0) -> float:
        """Seconds until the first blob has a web seed."""
        while self.now < until:
            self.now += PATIENCE.tick
            if other_comes:
                self.helping.came_at[1] = self.members.moved_at[1] = self.now
            self.helping.look(ALL, is_connected, np.zeros(2))
            if self.streams.of(np.array([0]))[0]:
                return self.now
        return np.inf


def test_one_that_no_tracker_has_answered_yet_waits_as_one_that_stalls() -> None:
    assert _Node().helped_at(NONE) == PATIENCE.stalled


def test_one_that_asked_its_tracker_in_vain_and_has_nobody_is_helped_at_once() -> None:
    node = _Node()
    node.now = TRACKER_SECONDS
    node.members.moved_at[:] = TRACKER_SECONDS - PATIENCE.alone
    assert node.helped_at(NONE) == TRACKER_SECONDS + PATIENCE.tick


def test_one_that_was_introduced_is_not_alone_for_it_knows_the_sites_seeder() -> None:
    node = _Node()
    node.helping.is_introduced[:] = True
    assert node.helped_at(NONE) == PATIENCE.stalled


def test_one_that_nobody_has_been_introduced_to_is_not_the_more_patient_for_coarse_pieces() -> None:
    node = _Node(pieces=8)
    assert node.helped_at(NONE) == PATIENCE.stalled
    assert _Node(pieces=8).helped_at(ALL) > PATIENCE.stalled


def test_while_other_blobs_come_to_the_node_it_waits_four_times_as_long() -> None:
    assert _Node().helped_at(ALL, other_comes=True) == 4 * PATIENCE.stalled
