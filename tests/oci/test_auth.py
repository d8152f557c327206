from __future__ import annotations

import pytest

from imagedist.oci.auth import Challenge, Credentials, parse_basic, parse_challenges


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="a, b"', (Challenge("basic", {"realm": "a, b"}),)),
        (
            'Bearer realm="https://a/t", service = "s" ,scope="repository:x:pull,push"',
            (Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"}),),
        ),
        (
            'Negotiate, BASIC realm=x, Bearer realm="q\\"r"',
            (
                Challenge("negotiate", {}),
                Challenge("basic", {"realm": "x"}),
                Challenge("bearer", {"realm": 'q"r'}),
            ),
        ),
        ("", ()),
        ('="', ()),
    ],
)
def test_challenges_are_parsed_by_the_grammar(header: str, challenges: tuple[Challenge, ...]) -> None:
    assert parse_challenges(header) == challenges


def test_password_does_not_show() -> None:
    assert "secret" not in repr(Credentials("me", "secret"))


@pytest.mark.parametrize(
    ("header", "credentials"),
    [
        (Credentials("me", "a:b").basic(), Credentials("me", "a:b")),
        ("basic  bWU6", Credentials("me", "")),
        ("Basic bWU=", None),
        ("Basic %%%", None),
        ("Basic gID/", None),
        ("Bearer abc", None),
        ("", None),
    ],
)
def test_basic_is_read_back(header: str, credentials: Credentials | None) -> None:
    assert parse_basic(header) == credentials
