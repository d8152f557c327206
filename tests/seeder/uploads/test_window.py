"""How much is under way follows how much goes out."""

from __future__ import annotations

import math

from seeder.uploads.window import Window

_MIB = 1 << 20


def test_as_much_is_under_way_as_goes_out_in_a_second() -> None:
    now = [10.0]
    window = Window(lambda: now[0])
    assert window.size_bytes == 2 * _MIB
    for _ in range(8):
        window.sent(10 * _MIB)
        now[0] += 0.125
    assert window.size_bytes == 80 * _MIB
    now[0] += 5
    assert window.size_bytes == 2 * _MIB


def test_a_piece_always_fits_when_nothing_is_under_way() -> None:
    window = Window(lambda: 10.0)
    assert window.room_bytes(0) == math.inf
    assert window.room_bytes(_MIB) == _MIB
