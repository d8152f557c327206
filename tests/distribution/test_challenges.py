"""What clients send, and how they are asked for it."""

from __future__ import annotations

import json

import pytest
from aiohttp.test_utils import make_mocked_request

from imagedist.distribution.challenges import challenge, give_token, sent_authorization

ALICE = "Basic YWxpY2U6cHc="


@pytest.mark.parametrize(
    ("header", "understood"),
    [
        (None, None),
        (ALICE, ALICE),
        ("basic   YWxpY2U6cHc= ", ALICE),
        ("Bearer imagedist.YWxpY2U6cHc=", ALICE),
        ("bearer imagedist", None),
        ("Bearer another.token", "Bearer another.token"),
        ("Basic Og==", None),
        ("Basic", None),
        ("Basic not base64!", None),
        ("Bearer imagedist.not/base64!", None),
        ("", None),
        ("Bearer caf\u00e9", None),
    ],
)
def test_credentials_are_read_as_an_upstream_understands_them(header: str | None, understood: str | None) -> None:
    request = make_mocked_request("GET", "/v2/", headers={"Authorization": header} if header is not None else {})
    assert sent_authorization(request) == understood


@pytest.mark.parametrize(
    ("headers", "realm"),
    [
        ({"Host": "mirror.example:5050"}, "http://mirror.example:5050/token"),
        ({"Host": "[::1]:5050"}, "http://[::1]:5050/token"),
        ({"Host": "mirror.example", "X-Forwarded-Proto": "https"}, "https://mirror.example/token"),
        ({"Host": 'a",realm="http://evil.example'}, "http://localhost/token"),
    ],
)
def test_realm_is_where_the_client_already_is(headers: dict[str, str], realm: str) -> None:
    request = make_mocked_request("GET", "/v2/", headers=headers)
    assert challenge(request) == f'Bearer realm="{realm}",service="imagedist"'


@pytest.mark.parametrize("header", [None, ALICE, "Bearer another.token"])
async def test_token_says_what_the_client_said_and_is_kept_by_nobody(header: str | None) -> None:
    request = make_mocked_request("GET", "/token", headers={"Authorization": header} if header else {})
    answer = await give_token(request)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.text is not None
    again = make_mocked_request("GET", "/v2/", headers={"Authorization": f"Bearer {json.loads(answer.text)['token']}"})
    assert sent_authorization(again) == header
