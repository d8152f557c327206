"""Failures are remembered for a moment, and nothing else with them."""

from __future__ import annotations

import gc
import weakref

import pytest

from imagedist.errors import NotFoundError, SourceError
from registry_proxy.failures import SOURCE_SECONDS, RecentFailures


class Chunk:
    """What the frame of a failing fetch holds."""


def test_failure_is_raised_again_until_it_expires() -> None:
    now = 1000.0
    failures = RecentFailures(lambda: now)
    failures.remember("unknown", NotFoundError("no such name", "NAME_UNKNOWN"), 5.0)
    failures.remember("down", SourceError("cannot reach it"), 5.0)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="no such name") as caught:
            failures.check("unknown")
        assert caught.value.code == "NAME_UNKNOWN"
    now += SOURCE_SECONDS
    failures.check("down")
    now += 5.0
    failures.check("unknown")


def test_remembered_failure_keeps_nothing_of_the_fetch_alive() -> None:
    failures = RecentFailures(lambda: 0.0)

    def fetch() -> weakref.ref[Chunk]:
        chunk = Chunk()
        try:
            try:
                raise SourceError("broke off")
            except SourceError as error:
                failures.remember("blob", error, 5.0)
                raise
        except SourceError:
            return weakref.ref(chunk)

    reference = fetch()
    gc.collect()
    assert reference() is None
    with pytest.raises(SourceError, match="broke off"):
        failures.check("blob")
