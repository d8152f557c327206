from __future__ import annotations

import pytest

from imagedist.distribution.conditions import is_precondition_failed, is_range_meant, is_unchanged
from imagedist.oci.digest import Digest

DIGEST = Digest.of(b"content")
OTHER = Digest.of(b"other")


@pytest.mark.parametrize(
    "lines",
    [
        [f'"{DIGEST}"'],
        [f'"{OTHER}", "{DIGEST}"'],
        [f'"{OTHER}",W/"{DIGEST}" , "x"'],
        [f'"{OTHER}"', f'"{DIGEST}"'],
        ["*"],
        [" * "],
        [str(DIGEST)],
    ],
)
def test_what_the_client_has_is_not_sent_again(lines: list[str]) -> None:
    assert is_unchanged(lines, DIGEST)


@pytest.mark.parametrize(
    "lines", [[], [""], [f'"{OTHER}"'], ["W/"], [f'"{DIGEST}'], [f'"a{DIGEST}"'], [f'nonsense "{DIGEST}"'], [",,,"]]
)
def test_another_version_or_nonsense_is_answered_in_full(lines: list[str]) -> None:
    assert not is_unchanged(lines, DIGEST)


def test_if_match_compares_strongly() -> None:
    assert not is_precondition_failed([], DIGEST)
    assert not is_precondition_failed([f'"{OTHER}", "{DIGEST}"'], DIGEST)
    assert not is_precondition_failed(["*"], DIGEST)
    assert is_precondition_failed([f'W/"{DIGEST}"'], DIGEST)
    assert is_precondition_failed([f'"{OTHER}"'], DIGEST)


@pytest.mark.parametrize(
    ("header", "is_meant"),
    [
        (None, True),
        (f'"{DIGEST}"', True),
        (f'W/"{DIGEST}"', False),
        (f'"{OTHER}"', False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
        ("", False),
    ],
)
def test_range_counts_only_for_the_very_version_it_was_begun_with(header: str | None, is_meant: bool) -> None:
    assert is_range_meant(header, DIGEST) is is_meant
