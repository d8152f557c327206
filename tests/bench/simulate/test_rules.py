"""What the model takes from other rooms is what they have."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bench.simulate import measured
from bench.simulate.hosts import Hosts
from bench.simulate.links import Links
from bench.simulate.members import Members
from bench.simulate.pieces import pieces_of
from bench.simulate.tracking import Tracking
from bench.simulate.trading import Trading
from imagedist.fetch.watch import Patience
from imagedist.swarm.torrent import piece_length
from seeder.uploads import session
from tests.bench.simulate.scenarios import small


def test_pieces_are_the_projects_own_while_there_are_not_too_many() -> None:
    pieces = pieces_of(12_000_000, 32)
    assert pieces.length == piece_length(12_000_000)
    assert pieces.sizes.sum() == 12_000_000
    assert pieces.coarseness == 1


def test_pieces_of_a_crowd_are_coarser_and_say_how_much() -> None:
    pieces = pieces_of(500_000_000, 40_000)
    assert pieces.count < pieces.real_count / 4
    assert pieces.sizes.sum() == 500_000_000
    assert pieces.coarseness == pytest.approx(pieces.real_count / pieces.count)


def test_a_seeder_has_room_for_as_many_as_the_real_one() -> None:
    assert session._MAX_PEERS == measured.SEEDER_CONNECTIONS


def test_nodes_ask_for_as_many_peers_as_agents_do() -> None:
    assert 1 <= measured.NEIGHBOURS <= 30
    assert Patience().give_up > measured.LOST_SECONDS


def test_the_tracker_introduces_who_announced_before_and_answers_by_turns() -> None:
    now = [0.0]
    tracking = Tracking(1, lambda: now[0], 10.0, 8, random.Random(1))
    for node in range(20):
        tracking.announce(0, node, is_seed=node == 0)
    assert tracking.answers() == []
    now[0] = 1.05
    early = tracking.answers()
    now[0] = 2.05
    late = tracking.answers()
    assert len(early) == 10
    assert len(late) == 10
    assert early[0][2] == []
    assert all(1 <= len(introduced) <= 8 for _, _, introduced in late)
    assert all(node not in introduced for _, node, introduced in late)
    assert tracking.counts(0) == (1, 19)
    assert tracking.longest_wait_seconds == pytest.approx(2.0)


def test_the_seeder_gives_each_piece_once_before_any_twice() -> None:
    dice, now = np.random.default_rng(1), [0.0]
    scenario = small(4, size=2_200_000, layers=1)
    members = Members(4, pieces_of(2_200_000, 4), dice)
    hosts = Hosts(scenario, 4, members, Trading(members, Links(members)), lambda: now[0], lambda blob: 0)
    for member in range(4):
        hosts.connect(member)
    given: list[int] = []
    while len(set(given)) < members.pieces.count:
        now[0] += 0.05
        hosts.flow()
        size_bytes = members.pieces.sizes[hosts.piece]
        hosts.sent(size_bytes)
        for member, piece in zip(hosts.member.tolist(), hosts.piece.tolist(), strict=True):
            given.append(piece)
            members.complete(np.array([member]), np.array([piece]), now[0])
            hosts.got(member, [piece])
    # Only what the last look offered beside the last new pieces went out twice: one to each at most.
    assert len(given) <= members.pieces.count + 4


def test_a_neighbour_is_asked_for_the_rarest_piece() -> None:
    members = Members(3, pieces_of(2_200_000, 3), np.random.default_rng(1))
    links = Links(members)
    links.connect(np.array([0, 0]), np.array([1, 2]))
    for member, pieces in ((1, [0, 1, 2]), (2, [0, 1])):
        at = np.full(len(pieces), member)
        members.complete(at, np.array(pieces), 0.0)
        Trading(members, links).told(at, np.array(pieces))
    assert members.rarest(np.array([1]), np.array([0])).tolist() == [2]
    assert members.rarest(np.array([2]), np.array([0]))[0] in (0, 1)
