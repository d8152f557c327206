from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from imagedist.errors import SourceError
from imagedist.oci.auth import Authorizer, Challenge, Credentials, parse_challenges

BEARER = 'Bearer realm="https://auth.example/token",service="registry"'


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


class TokenServer:
    def __init__(self, body: bytes = b'{"token": "abc", "expires_in": 100}') -> None:
        self.body = body
        self.asked: list[tuple[str, Mapping[str, str], str | None]] = []

    async def __call__(self, realm: str, query: Mapping[str, str], authorization: str | None) -> bytes:
        self.asked.append((realm, query, authorization))
        await asyncio.sleep(0)
        return self.body


async def test_token_is_kept_by_scope_until_it_expires() -> None:
    now = 0.0
    server = TokenServer()
    authorizer = Authorizer("r", None, server, clock=lambda: now)
    assert authorizer.current("s1") is None
    assert await authorizer.answer(BEARER, "s1", None) == "Bearer abc"
    assert (authorizer.current("s1"), authorizer.current("s2")) == ("Bearer abc", None)
    assert server.asked == [("https://auth.example/token", {"scope": "s1", "service": "registry"}, None)]
    now = 95.0
    assert authorizer.current("s1") is None


async def test_token_is_asked_for_once_by_many_tasks() -> None:
    server = TokenServer()
    authorizer = Authorizer("r", Credentials("u", "p"), server)
    answers = await asyncio.gather(*(authorizer.answer(BEARER, "s", None) for _ in range(9)))
    assert set(answers) == {"Bearer abc"}
    assert len(server.asked) == 1
    assert server.asked[0][2] == "Basic dTpw"


async def test_refused_credentials_are_not_offered_again() -> None:
    authorizer = Authorizer("r", Credentials("u", "p"), TokenServer())
    assert await authorizer.answer('Basic realm="r"', "s", None) == "Basic dTpw"
    assert await authorizer.answer('Basic realm="r"', "s", "Basic dTpw") is None


@pytest.mark.parametrize("realm", ["http://auth.example/t", "file:///etc/passwd", "nonsense"])
async def test_credentials_go_to_no_token_server_in_the_clear(realm: str) -> None:
    server = TokenServer()
    authorizer = Authorizer("r", Credentials("u", "p"), server)
    with pytest.raises(SourceError, match="not HTTPS"):
        await authorizer.answer(f'Bearer realm="{realm}"', "s", None)
    assert server.asked == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": "a\\nb"}'])
async def test_nonsense_from_the_token_server_is_a_source_error(body: bytes) -> None:
    with pytest.raises(SourceError, match="sent no token"):
        await Authorizer("r", None, TokenServer(body)).answer(BEARER, "s", None)
