from __future__ import annotations

from collections.abc import Callable

from imagedist.unpack.writers import Writers

_TURN_SECONDS = 0.01
_TURNS = 52


class Disk:
    """A simulated disk: its throughput by the number of writers, and whether they wait for it."""

    def __init__(self, rate: Callable[[int], float], busy_share: float) -> None:
        self.now = 0.0
        self._rate = rate
        self._busy_share = busy_share

    def use(self, writers: Writers, windows: int) -> list[int]:
        """The limit after each window of half a second in which as many write as may."""
        limits = []
        for _ in range(windows):
            for _ in range(_TURNS):
                count = 0
                while writers.may_begin():
                    writers.begin()
                    count += 1
                self.now += _TURN_SECONDS
                size_bytes = int(self._rate(count) * _TURN_SECONDS / count)
                for _ in range(count):
                    writers.end(size_bytes, _TURN_SECONDS, _TURN_SECONDS * self._busy_share)
            limits.append(writers.limit)
        return limits


def test_all_write_when_none_waits_for_the_disk() -> None:
    disk = Disk(lambda count: count * 500e6, busy_share=0.95)
    assert set(disk.use(Writers(8, lambda: disk.now), 10)) == {8}


def test_writers_become_fewer_on_a_disk_that_gets_slower_with_them() -> None:
    disk = Disk(lambda count: 400e6 / count, busy_share=0.1)
    assert max(disk.use(Writers(8, lambda: disk.now), 40)[-8:]) <= 2


def test_writers_stay_many_on_a_disk_that_wants_many() -> None:
    disk = Disk(lambda count: count * 100e6, busy_share=0.1)
    assert min(disk.use(Writers(4, lambda: disk.now), 20)) >= 3


def test_one_writer_always_may() -> None:
    disk = Disk(lambda count: 50e6, busy_share=0.0)
    assert min(disk.use(Writers(2, lambda: disk.now), 20)) >= 1
