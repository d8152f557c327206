"""Who is introduced to whom: near peers first, seeds and partial peers mixed, and still one well-connected graph."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from seeder.tracker.announce import Announce, Endpoint
from seeder.tracker.choice import choose
from seeder.tracker.peers import Peer, PeersInMemory, Place

HERE = Place("a", "r1")


def peer(number: int, place: Place = Place(), *, is_seed: bool = False, introduced: int = 0) -> Peer:
    return Peer(Endpoint.of(f"10.0.{number // 256}.{number % 256}", 6882), place, is_seed, 0.0, introduced)


ASKER = Endpoint.of("10.9.9.9", 6882)


def test_half_comes_from_the_rack_a_quarter_from_the_zone_the_rest_from_the_site() -> None:
    rack = [peer(n, HERE) for n in range(50)]
    zone = [peer(100 + n, Place("a", "r2")) for n in range(50)]
    site = [peer(200 + n, Place("b", "r9")) for n in range(50)]
    for each in rack + zone:
        each.introduced = 1  # so that only nearness speaks for them
    chosen = choose(rack + zone + site, ASKER, HERE, 20)
    assert sum(one.place == HERE for one in chosen) >= 10
    assert Counter(one.place.zone for one in chosen) == {"a": 15, "b": 5}


def test_who_says_nothing_of_its_place_gets_peers_of_the_whole_site() -> None:
    candidates = [peer(n, Place("a", f"r{n % 5}")) for n in range(60)]
    assert len(choose(candidates, ASKER, Place(), 30)) == 30


def test_seeds_and_partial_peers_come_half_and_half_while_there_are_both() -> None:
    seeds = [peer(n, is_seed=True) for n in range(40)]
    partials = [peer(100 + n) for n in range(40)]
    assert Counter(one.is_seed for one in choose(seeds + partials, ASKER, Place(), 20)) == {True: 10, False: 10}
    assert Counter(one.is_seed for one in choose(seeds + partials[:3], ASKER, Place(), 20)) == {True: 17, False: 3}
    assert Counter(one.is_seed for one in choose(seeds[:3] + partials, ASKER, Place(), 20)) == {True: 3, False: 17}


def test_who_was_handed_out_least_goes_first_and_nobody_is_told_of_itself() -> None:
    often = [peer(n, introduced=9) for n in range(20)]
    seldom = [peer(100 + n) for n in range(5)]
    itself = Peer(ASKER, Place(), False, 0.0)
    chosen = choose([*often, *seldom, *seldom, itself], ASKER, Place(), 8)
    assert len(chosen) == len(set(chosen)) == 8
    assert set(seldom) <= set(chosen)
    assert itself not in chosen


async def test_thousands_of_nodes_form_one_graph_of_bounded_degree() -> None:
    dice = random.Random(7)
    peers = PeersInMemory(90, clock=lambda: 0.0, dice=dice)
    infohash, wanted = b"x" * 20, 12
    neighbours: dict[Endpoint, set[Endpoint]] = defaultdict(set)
    for number in range(3000):
        rack = number % 150
        place = Place(f"z{rack % 3}", f"r{rack}")
        host = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        asking = Announce.parse(f"info_hash={'x' * 20}&port=6882&left=1", host, "10.0.0.5")
        drawn = await peers.candidates(infohash, place, seeds=True, count=wanted)
        for known in choose(drawn, asking.peer, place, wanted):
            known.introduced += 1
            neighbours[asking.peer].add(known.endpoint)
            neighbours[known.endpoint].add(asking.peer)
        await peers.admit(asking, place)
    reached, border, rounds = set[Endpoint](), {next(iter(neighbours))}, 0
    while border:
        reached |= border
        border = {other for each in border for other in neighbours[each]} - reached
        rounds += 1
    assert len(reached) == 3000
    assert rounds <= 7, "a piece is everywhere within a few hops"
    assert max(map(len, neighbours.values())) <= 10 * wanted, "connections of the first to come do not run full"
