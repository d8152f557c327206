"""Who decodes when there are more layers than CPUs."""

from __future__ import annotations

import threading

from imagedist.unpack.turns import Turns


def waiting(turns: Turns, left_bytes: int, order: list[int]) -> threading.Thread:
    """A thread that waits for its turn; returns when it does."""

    def take() -> None:
        with turns.turn(left_bytes):
            order.append(left_bytes)

    before = len(turns._waiting)
    thread = threading.Thread(target=take)
    thread.start()
    while len(turns._waiting) == before:
        pass
    return thread


def test_the_layer_with_the_most_left_is_next() -> None:
    turns, order = Turns(1), []
    with turns.turn(0):
        threads = [waiting(turns, left_bytes, order) for left_bytes in (5, 9, 7)]
    for thread in threads:
        thread.join()
    assert order == [9, 7, 5]


def test_who_waits_for_something_else_gives_the_turn_away_and_gets_it_back() -> None:
    turns, order = Turns(1), []
    with turns.turn(3):
        other = waiting(turns, 1, order)
        with turns.given_away(3):
            other.join()
        assert order == [1]
        assert turns._free == 0
    assert turns._free == 1


def test_a_turn_that_ends_in_an_error_is_over() -> None:
    turns = Turns(1)
    try:
        with turns.turn(1):
            raise ValueError
    except ValueError:
        pass
    with turns.turn(1):
        assert turns._free == 0
