"""Which piece the seeder offers to whom."""

from __future__ import annotations

from collections.abc import Iterable

from imagedist.oci.digest import Digest
from imagedist.swarm.torrent import TorrentFacts
from seeder.uploads.offers import Host, Offers, Pace, Taker

PIECE_BYTES = 100
EVERYWHERE = 1e9


class Swarm:
    """A torrent of ten pieces, its peers on hosts of their own, and time that only passes when told."""

    def __init__(self, pace: Pace = Pace(), pieces: int = 10) -> None:
        self.now = 100.0
        facts = TorrentFacts(Digest.of(b"blob"), pieces * PIECE_BYTES, PIECE_BYTES, bytes(32))
        self.offers = Offers(facts, pace, self.clock)
        self.told: list[tuple[str, int]] = []
        self.takers: dict[str, Taker] = {}

    def clock(self) -> float:
        return self.now

    def join(self, name: str, pieces: Iterable[int] = ()) -> None:
        host = Host(self.clock)
        self.takers[name] = self.offers.join(host, set(pieces), lambda piece: self.told.append((name, piece)))

    def offer_all(self, room_bytes: float = EVERYWHERE) -> list[tuple[str, int]]:
        """Everything that is offered now, to whom."""
        self.told.clear()
        while self.offers.offer(room_bytes - self.offers.under_way_bytes):
            pass
        return list(self.told)

    def take(self, name: str, *pieces: int) -> None:
        """The peer gets pieces from the seeder that it was offered."""
        for piece in pieces:
            self.offers.sent(self.takers[name], piece, PIECE_BYTES)
        self.get(name, *pieces)

    def get(self, name: str, *pieces: int) -> None:
        """The peer has pieces now, wherever from."""
        self.offers.got(self.takers[name], pieces)

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds
        self.offers.tick()


def pieces_of(told: list[tuple[str, int]]) -> list[int]:
    return sorted(piece for _, piece in told)


def test_every_piece_is_given_away_once_before_any_twice_and_the_first_ones_first() -> None:
    swarm = Swarm()
    for name in "abc":
        swarm.join(name)
    given: list[int] = []
    while len(given) < 10:
        for name, piece in swarm.offer_all(room_bytes=3 * PIECE_BYTES):
            given.append(piece)
            swarm.take(name, piece)
    assert given[:10] == list(range(10))


def test_offers_go_round_among_the_peers() -> None:
    swarm = Swarm()
    for name in "abc":
        swarm.join(name)
    assert swarm.offer_all() == [("a", 0), ("b", 1), ("c", 2), ("a", 3), ("b", 4), ("c", 5)]


def test_no_more_is_under_way_than_there_is_room_for() -> None:
    swarm = Swarm()
    for name in "abcd":
        swarm.join(name)
    assert len(swarm.offer_all(room_bytes=3 * PIECE_BYTES)) == 3
    assert swarm.offer_all(room_bytes=3 * PIECE_BYTES) == []
    swarm.take("a", 0)
    assert len(swarm.offer_all(room_bytes=3 * PIECE_BYTES)) == 1


def fed_by_others(swarm: Swarm, *names: str) -> None:
    """Peers that have had some pieces of others lately, and none is left that nobody has."""
    for name in names:
        swarm.join(name)
    swarm.join("old", range(9))
    swarm.join("older", range(1, 10))
    for name in names:
        swarm.get(name, *range(1, 5))


def test_what_the_peers_have_among_them_is_not_sent_again() -> None:
    swarm = Swarm(Pace(copies=0.0))
    fed_by_others(swarm, "a", "b")
    assert all(name in ("old", "older") for name, _ in swarm.offer_all())


def test_while_few_copies_were_sent_the_rarest_pieces_are_offered_as_well() -> None:
    swarm = Swarm(Pace(copies=1.0))
    fed_by_others(swarm, "a", "b", "c", "d")
    told = swarm.offer_all()
    assert {piece for name, piece in told if name in "abcd"} & {0, 9}
    swarm.offers.sent(swarm.takers["a"], 0, 1000)
    for name, piece in told:
        swarm.take(name, piece)
    assert not any(name in "abcd" for name, _ in swarm.offer_all())


def test_a_piece_that_left_with_its_only_holder_is_offered_again() -> None:
    swarm = Swarm(Pace(copies=0.0))
    fed_by_others(swarm, "a", "b")
    swarm.offer_all()
    swarm.offers.leave(swarm.takers["older"])
    swarm.offers.leave(swarm.takers["old"])
    assert set(pieces_of(swarm.offer_all())) <= {0, 5, 6, 7, 8, 9}
    assert swarm.told


def test_a_lone_peer_gets_everything_in_order() -> None:
    swarm = Swarm(Pace(copies=0.0))
    swarm.join("a")
    order: list[int] = []
    while told := swarm.offer_all():
        for name, piece in told:
            order.append(piece)
            swarm.take(name, piece)
    assert order == list(range(10))


def test_a_quick_peer_may_hold_more_offers() -> None:
    swarm = Swarm(pieces=64)
    swarm.join("a")
    assert len(swarm.offer_all()) == 2
    swarm.take("a", 0, 1)
    assert len(swarm.offer_all()) == 4


def test_a_peer_that_gets_much_less_from_others_than_it_once_did_gets_the_rest_from_us() -> None:
    swarm = Swarm(Pace(copies=0.0))
    fed_by_others(swarm, "a")
    assert not any(name == "a" for name, _ in swarm.offer_all())
    swarm.pass_seconds(8)
    told = [piece for name, piece in swarm.offer_all() if name == "a"]
    assert told
    while told:
        swarm.take("a", *told)
        told = [piece for name, piece in swarm.offer_all() if name == "a"]
    assert swarm.takers["a"].has_count == 10


def test_once_much_was_sent_only_who_gets_next_to_nothing_is_helped() -> None:
    swarm = Swarm(Pace(copies=0.0, relief_copies=1.0))
    fed_by_others(swarm, "a", "b", "c")
    swarm.pass_seconds(6)
    swarm.offers.sent(swarm.takers["a"], 0, 10 * PIECE_BYTES)
    assert not any(name in "abc" for name, _ in swarm.offer_all())
    swarm.pass_seconds(6)
    assert any(name in "abc" for name, _ in swarm.offer_all())


def test_a_peer_that_does_not_take_what_it_is_offered_keeps_it_from_nobody() -> None:
    swarm = Swarm(Pace(copies=0.0), pieces=2)
    swarm.join("dead")
    assert pieces_of(swarm.offer_all()) == [0, 1]
    swarm.join("a")
    swarm.get("a")
    swarm.pass_seconds(4)
    assert swarm.offers.under_way_bytes == 0
    assert {("a", 0), ("a", 1)} <= set(swarm.offer_all())


def test_a_slow_peer_goes_on_getting_offers() -> None:
    swarm = Swarm(Pace(copies=0.0))
    swarm.join("slow")
    for _ in range(5):
        told = swarm.offer_all()
        assert told
        swarm.pass_seconds(20)
        for name, piece in told:
            swarm.take(name, piece)
    assert swarm.takers["slow"].has_count == 10


def test_a_peer_may_ask_only_for_what_it_was_offered() -> None:
    swarm = Swarm()
    swarm.join("a")
    taker = swarm.takers["a"]
    assert not swarm.offers.ask(taker, 0, PIECE_BYTES)
    swarm.offer_all()
    assert swarm.offers.ask(taker, 0, PIECE_BYTES)


def test_one_peer_that_takes_for_ever_makes_nobody_wait_for_others_for_ever() -> None:
    swarm = Swarm(Pace(copies=0.0))
    swarm.join("sleeper")
    swarm.offer_all()
    swarm.offers.sent(swarm.takers["sleeper"], 0, PIECE_BYTES)
    swarm.pass_seconds(7200)
    swarm.get("sleeper", 0)
    swarm.offers.leave(swarm.takers["sleeper"])
    swarm.join("dead")
    assert swarm.offer_all()
    swarm.join("a")
    swarm.pass_seconds(61)
    assert swarm.offers.under_way_bytes == 0
    assert ("a", 0) in swarm.offer_all()


def test_a_peer_that_has_everything_has_left_and_counts_as_a_seed() -> None:
    swarm = Swarm(Pace(copies=2.0))
    swarm.join("a")
    swarm.join("b")
    swarm.get("a", *range(10))
    assert swarm.offers.incomplete == 1
    swarm.get("b", 0)  # of a, certainly
    assert swarm.offer_all() == []
    swarm.offers.leave(swarm.takers["a"])  # its connection ended
    assert swarm.offer_all() == []


def test_after_a_while_only_the_tracker_knows_of_seeds() -> None:
    swarm = Swarm(Pace(copies=0.0))
    swarm.join("a")
    swarm.join("b", range(2))
    swarm.get("a", *range(10))
    swarm.get("b", 2)
    assert swarm.offer_all() == []
    swarm.get("b", 3)
    swarm.pass_seconds(61)
    swarm.get("b", 4)
    swarm.offers.seeds_elsewhere = 1
    assert swarm.offer_all() == []
    swarm.offers.seeds_elsewhere = 0
    assert pieces_of(swarm.offer_all()) == [5, 6]


def test_when_half_of_a_burst_has_everything_who_has_most_of_it_gets_the_rest_from_us() -> None:
    swarm = Swarm(Pace(copies=0.0))
    for name in "abcd":
        swarm.join(name)
        swarm.get(name, *range(6))
    swarm.join("late")
    swarm.get("late", 0)
    for name in "ab":
        swarm.get(name, *range(6, 10))
    assert swarm.offer_all() == []
    swarm.get("c", *range(6, 10))
    swarm.offers.sent(swarm.takers["d"], 0, 9 * PIECE_BYTES)
    assert {name for name, _ in swarm.offer_all()} == {"d"}


def test_a_new_burst_has_its_copies_again() -> None:
    swarm = Swarm(Pace(copies=1.0))
    swarm.join("a")
    swarm.offers.sent(swarm.takers["a"], 0, 5000)
    swarm.offers.leave(swarm.takers["a"])
    swarm.join("b")
    assert swarm.offers.copies_sent == 5
    swarm.offers.leave(swarm.takers["b"])
    swarm.pass_seconds(11)
    swarm.join("c")
    assert swarm.offers.copies_sent == 0


def test_what_was_asked_for_counts_before_it_is_sent_and_no_more_once_it_is_cancelled() -> None:
    swarm = Swarm()
    swarm.join("a")
    swarm.offer_all()
    taker = swarm.takers["a"]
    assert [swarm.offers.ask(taker, 0, PIECE_BYTES) for _ in range(4)] == [True, True, True, False]
    swarm.offers.cancel(taker, 0, PIECE_BYTES)
    assert swarm.offers.ask(taker, 0, PIECE_BYTES)
    assert not swarm.offers.ask(taker, 0, 1)


def test_a_host_that_comes_and_goes_does_not_fill_the_window() -> None:
    swarm = Swarm()
    host = Host(swarm.clock)
    for _ in range(3):
        taker = swarm.offers.join(host, (), lambda piece: None)
        swarm.offer_all(room_bytes=2 * PIECE_BYTES)
        swarm.pass_seconds(1)
        swarm.offers.leave(taker)
    taker = swarm.offers.join(host, (), lambda piece: None)
    swarm.offer_all()
    assert swarm.offers.under_way_bytes == 0
    swarm.join("b")
    assert swarm.offer_all(room_bytes=2 * PIECE_BYTES) == [("b", 0), ("b", 1)]


def test_a_host_that_takes_an_offer_in_time_is_not_late_any_more() -> None:
    swarm = Swarm()
    host = Host(swarm.clock)
    swarm.offers.leave(swarm.offers.join(host, (), lambda piece: None))
    assert not host.is_late
    taker = swarm.offers.join(host, (), lambda piece: None)
    swarm.offer_all()
    swarm.offers.leave(taker)
    assert host.is_late
    swarm.takers["a"] = swarm.offers.join(host, (), lambda piece: None)
    swarm.offer_all()
    swarm.take("a", 0)
    assert not host.is_late
    assert not swarm.takers["a"].is_late
