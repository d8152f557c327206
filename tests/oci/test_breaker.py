from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from imagedist.errors import NotFoundError, SourceError
from imagedist.oci.breaker import FAILURES, LONGEST_PAUSE_SECONDS, PROBE_SECONDS, Breaker
from imagedist.oci.client import RegistryClient
from imagedist.oci.retries import TransientError
from tests.support.registry import FaultyRegistry


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def states() -> list[bool]:
    return []


@pytest.fixture
def breaker(clock: Clock, states: list[bool]) -> Breaker:
    return Breaker("r.example", clock=clock, jitter=lambda: 0.5, changed=states.append)


def fail(breaker: Breaker, lasting: Callable[[], None] = lambda: None) -> None:
    def failing() -> None:
        with breaker.attempt():
            lasting()
            raise TransientError("cannot reach registry r.example: refused")

    with pytest.raises(TransientError):
        failing()


def is_asked(breaker: Breaker) -> bool:
    try:
        with breaker.attempt():
            return True
    except SourceError:
        return False


def opened(breaker: Breaker, clock: Clock) -> Breaker:
    for _ in range(FAILURES):
        fail(breaker)
        clock.now += 1.0
    assert breaker.is_open
    clock.now -= 1.0
    return breaker


def test_registry_that_keeps_failing_is_left_alone_and_that_is_said(breaker: Breaker, clock: Clock) -> None:
    opened(breaker, clock)
    with pytest.raises(
        SourceError,
        match=r"^registry r\.example is not asked for another 5 s: it failed 5 times in a row, at last: cannot reach",
    ):
        with breaker.attempt():
            pass


def test_many_failures_of_one_moment_are_one(breaker: Breaker) -> None:
    for _ in range(50):
        fail(breaker)
    assert is_asked(breaker)


def test_two_time_outs_are_enough(breaker: Breaker, clock: Clock) -> None:
    for _ in range(2):
        assert not breaker.is_open
        fail(breaker, lasting=lambda: setattr(clock, "now", clock.now + 6.0))
    assert breaker.is_open


def test_failure_of_long_ago_does_not_count(breaker: Breaker, clock: Clock) -> None:
    for _ in range(50):
        fail(breaker)
        clock.now += 100.0
    assert not breaker.is_open


def test_every_second_failure_is_no_reason(breaker: Breaker, clock: Clock) -> None:
    for _ in range(50):
        fail(breaker)
        clock.now += 1.0
        assert is_asked(breaker)


@pytest.mark.parametrize("error", [TransientError("too many", is_down=False), NotFoundError("no such blob")])
def test_answer_that_we_do_not_like_is_no_failure(breaker: Breaker, clock: Clock, error: Exception) -> None:
    for _ in range(50):
        with pytest.raises(type(error)):
            with breaker.attempt():
                raise error
        clock.now += 1.0
    assert is_asked(breaker)


def test_failure_of_somebody_else_is_not_counted(breaker: Breaker, clock: Clock) -> None:
    for _ in range(50):
        with pytest.raises(TransientError):
            with breaker.attempt(lambda: False):
                raise TransientError("storage")
        clock.now += 1.0
    assert is_asked(breaker)


def test_one_asks_for_all_after_the_pause(breaker: Breaker, clock: Clock, states: list[bool]) -> None:
    opened(breaker, clock)
    clock.now += 5.1
    with breaker.attempt():
        assert not is_asked(breaker)
    assert is_asked(breaker)
    assert states == [True, False]


def test_pause_doubles_up_to_a_bound_while_probes_fail(breaker: Breaker, clock: Clock, states: list[bool]) -> None:
    opened(breaker, clock)
    pauses = []
    for _ in range(6):
        begun = clock.now
        while not breaker._open_until or clock.now < breaker._open_until:
            clock.now += 0.1
        pauses.append(round(clock.now - begun))
        fail(breaker)
    assert pauses == [5, 10, 20, 40, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    assert states == [True]


def test_cancelled_probe_leaves_it_to_the_next_one(breaker: Breaker, clock: Clock) -> None:
    opened(breaker, clock)
    clock.now += 5.1
    with pytest.raises(asyncio.CancelledError):
        with breaker.attempt():
            raise asyncio.CancelledError
    assert is_asked(breaker)


def test_lost_probe_is_not_waited_for_for_ever(breaker: Breaker, clock: Clock) -> None:
    opened(breaker, clock)
    clock.now += 5.1
    with breaker.attempt():
        clock.now += PROBE_SECONDS - 1
        assert not is_asked(breaker)
        clock.now += 1.1
        assert is_asked(breaker)


def test_answer_to_an_old_question_does_not_close_it(breaker: Breaker, clock: Clock) -> None:
    with breaker.attempt():
        opened(breaker, clock)
    assert not is_asked(breaker)


def test_source_that_answers_wrongly_is_left_alone_for_as_long_as_is_said(breaker: Breaker, clock: Clock) -> None:
    breaker.blame("it sent wrong bytes of sha256:0", 600)
    with pytest.raises(SourceError, match="for another 600 s: it sent wrong bytes"):
        with breaker.attempt():
            pass
    clock.now += 601
    assert is_asked(breaker)


async def test_client_does_not_ask_a_registry_that_is_left_alone() -> None:
    clock = Clock()

    async def nap(seconds: float) -> None:
        clock.now += max(seconds, 1.0)

    async with FaultyRegistry() as registry:
        registry.add_manifest("a", "1", b"{}")
        digest = registry.add_blob(b"content")
        breaker = Breaker("r", clock=clock)
        async with RegistryClient(registry.url, breaker=breaker, sleep=nap) as client:
            registry.statuses = [503] * 20
            for _ in range(2):
                with pytest.raises(SourceError):
                    await client.manifest("a", "1")
            assert breaker.is_open
            asked = registry.requests.total()
            for ask in (client.manifest("a", "1"), client.blob_bytes("a", digest, 100)):
                with pytest.raises(SourceError, match="not asked for another"):
                    await ask
            assert registry.requests.total() == asked
            registry.statuses = []
            clock.now += LONGEST_PAUSE_SECONDS
            assert await client.blob_bytes("a", digest, 100) == b"content"
            assert not breaker.is_open
