"""A rate cap that several processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.distribution.shared_rate import SharedTokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buckets(tmp_path: Path, clock: Clock) -> Iterator[list[SharedTokenBucket]]:
    """Each with a descriptor of its own, as in processes of their own."""
    made = [SharedTokenBucket(tmp_path / "egress", 1000, clock=clock, sleep=clock.sleep) for _ in range(3)]
    yield made
    for bucket in made:
        bucket.close()


async def test_all_processes_together_stay_below_the_rate(buckets: list[SharedTokenBucket], clock: Clock) -> None:
    for number in range(99):
        await buckets[number % 3].take(100)
    assert clock.now == pytest.approx(109.9, abs=0.2)


async def test_one_alone_may_have_all_of_it(buckets: list[SharedTokenBucket], clock: Clock) -> None:
    for _ in range(100):
        await buckets[0].take(100)
    assert clock.now == pytest.approx(110.0, abs=0.2)


async def test_the_file_of_a_process_that_died_while_it_wrote_counts_as_new(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "egress").write_bytes(b"abc")
    bucket = SharedTokenBucket(tmp_path / "egress", 1000, clock=clock, sleep=clock.sleep)
    await bucket.take(1000)
    assert clock.now == pytest.approx(101.0, abs=0.2)
    bucket.close()
