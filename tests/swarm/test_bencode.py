"""Bencoding is canonical in both directions and survives hostile input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagedist.errors import IntegrityError
from imagedist.swarm import bencode

values = st.recursive(
    st.integers(min_value=-(1 << 63), max_value=1 << 63) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_was_encoded_is_decoded(value: bencode.Value) -> None:
    assert bencode.decode(bencode.encode(value)) == value


@given(st.binary(max_size=60))
def test_whatever_decodes_is_the_one_spelling_of_its_value(text: bytes) -> None:
    try:
        value = bencode.decode(text)
    except IntegrityError:
        return
    assert bencode.encode(value) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"i1",
        b"ie",
        b"i-0e",
        b"i01e",
        b"i" + b"9" * 5000 + b"e",
        b"01:a",
        b"2:a",
        b"-1:a",
        b"99999999999999999999:a",
        b"l",
        b"li1e",
        b"d1:b0:1:a0:e",
        b"d1:a0:1:a0:e",
        b"di1e0:e",
        b"i1ei2e",
        b"l" * 100_000,
        b"d1:a" * 100_000,
    ],
)
def test_hostile_input_is_refused(text: bytes) -> None:
    with pytest.raises(IntegrityError, match="bencod"):
        bencode.decode(text)
