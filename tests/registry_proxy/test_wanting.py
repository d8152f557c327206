"""Only the first few nodes that lately wanted a blob are told to stream it."""

from __future__ import annotations

from imagedist.oci.digest import Digest
from registry_proxy.wanting import LATELY_SECONDS, Wanting

BLOB, OTHER = Digest.of(b"blob"), Digest.of(b"other")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_few_stay_the_first_and_later_ones_are_not() -> None:
    wanting = Wanting(2, Clock())
    assert [wanting.is_among_first(BLOB, node) for node in ("a", "b", "c", "a", "c")] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert wanting.is_among_first(OTHER, "c")


def test_after_a_while_others_are_the_first() -> None:
    clock = Clock()
    wanting = Wanting(1, clock)
    assert wanting.is_among_first(BLOB, "a")
    assert not wanting.is_among_first(BLOB, "b")
    clock.now += LATELY_SECONDS
    assert wanting.is_among_first(BLOB, "b")
    assert not wanting.is_among_first(BLOB, "a")


def test_none_is_the_first_where_none_may_stream() -> None:
    assert not Wanting(0, Clock()).is_among_first(BLOB, "a")


def test_what_is_remembered_has_a_bound() -> None:
    wanting = Wanting(1, Clock())
    assert wanting.is_among_first(BLOB, "a")
    for number in range(5000):
        wanting.is_among_first(Digest.of(str(number).encode()), "a")
    assert wanting.is_among_first(BLOB, "b")
