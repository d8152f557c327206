"""The same target as ``make fuzz``, with random changes to good and hostile layers instead of coverage."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import target
from tests.support.counts import count

SEEDS = target.seeds()
_CHANGES = st.lists(
    st.tuples(
        st.integers(0, 4096),
        st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"../", b"/", b"\0", b"7" * 11, b"\xff" * 12])),
    ),
    max_size=6,
)


@pytest.mark.prove
@pytest.mark.timeout(count(120, 1800))
@settings(
    max_examples=count(400, 20_000), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.sampled_from(SEEDS), _CHANGES)
def test_changed_layers_end_well_or_with_our_own_error(seed: bytes, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(seed)
    for place, value in changes:
        start = 1 + place % max(len(data) - 1, 1)
        data[start : start + len(value)] = value
    target.check(bytes(data))


@settings(max_examples=count(100, 20_000), deadline=None, derandomize=True)
@given(st.binary(max_size=2000))
def test_noise_ends_with_our_own_error(data: bytes) -> None:
    target.check(data)
