from __future__ import annotations

import asyncio

import pytest

from imagedist.errors import SourceError, UnauthorizedError
from imagedist.oci import authorizer as module
from imagedist.oci.auth import Credentials
from imagedist.oci.authorizer import Authorizer, TokenRequest

BEARER = 'Bearer realm="https://auth.example/token",service="registry"'
ALICE, BOB = Credentials("alice", "a"), Credentials("bob", "b")


class TokenServer:
    """Gives every user and scope a token of its own."""

    def __init__(self, body: bytes | None = None) -> None:
        self.body = body
        self.asked: list[TokenRequest] = []
        self.refused: set[str | None] = set()
        self.gate: asyncio.Event | None = None

    async def __call__(self, request: TokenRequest) -> bytes:
        self.asked.append(request)
        if self.gate is not None and request.query.get("scope") == "slow":
            await self.gate.wait()
        await asyncio.sleep(0)
        if request.authorization in self.refused:
            raise UnauthorizedError("denied")
        if self.body is not None:
            return self.body
        user = (request.authorization or "anonymous").rpartition(" ")[2]
        return f'{{"token": "{user}.{request.query.get("scope")}", "expires_in": 100}}'.encode()


async def test_token_is_kept_by_scope_until_it_expires() -> None:
    now = 0.0
    server = TokenServer()
    authorizer = Authorizer("r", None, server, clock=lambda: now)
    assert authorizer.current("s1") is None
    assert await authorizer.answer(BEARER, "s1", None) == "Bearer anonymous.s1"
    assert (authorizer.current("s1"), authorizer.current("s2")) == ("Bearer anonymous.s1", None)
    assert server.asked == [TokenRequest("https://auth.example/token", {"scope": "s1", "service": "registry"})]
    now = 95.0
    assert authorizer.current("s1") is None


async def test_token_is_asked_for_once_by_many_tasks() -> None:
    server = TokenServer()
    authorizer = Authorizer("r", Credentials("u", "p"), server)
    answers = await asyncio.gather(*(authorizer.answer(BEARER, "s", None) for _ in range(9)))
    assert set(answers) == {"Bearer dTpw.s"}
    assert [request.authorization for request in server.asked] == ["Basic dTpw"]


async def test_scopes_do_not_wait_for_each_other() -> None:
    server = TokenServer()
    server.gate = asyncio.Event()
    authorizer = Authorizer("r", None, server)
    slow = asyncio.create_task(authorizer.answer(BEARER, "slow", None))
    assert await authorizer.answer(BEARER, "s", None) == "Bearer anonymous.s"
    assert not slow.done()
    server.gate.set()
    assert await slow == "Bearer anonymous.slow"


async def test_users_never_share_a_token() -> None:
    server = TokenServer()
    own = Authorizer("r", Credentials("u", "p"), server)
    alice, bob = own.of_header(ALICE.basic()), own.of_header(BOB.basic())
    for each in (own, alice, bob):
        assert each.current("s") is None
        await each.answer(BEARER, "s", None)
    assert len({own.current("s"), alice.current("s"), bob.current("s")}) == 3
    assert own.of_header(ALICE.basic()).current("s") == alice.current("s")
    assert own.of_header(Credentials("alice", "wrong").basic()).current("s") is None


async def test_tokens_of_all_users_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOKENS", 2)
    own = Authorizer("r", None, TokenServer())
    users = [own.of_header(Credentials(f"u{number}", "p").basic()) for number in range(3)]
    for user in users:
        await user.answer(BEARER, "s", None)
    assert [user.current("s") is not None for user in users] == [False, True, True]


async def test_a_token_that_a_client_sent_is_passed_on_and_never_answered_for() -> None:
    server = TokenServer()
    given = Authorizer("r", ALICE, server).of_header("Bearer theirs")
    assert given.current("s") == "Bearer theirs"
    assert await given.answer(BEARER, "s", "Bearer theirs") is None
    assert server.asked == []


async def test_identity_token_is_changed_for_one_of_the_scope() -> None:
    server = TokenServer(b'{"access_token": "fresh"}')
    authorizer = Authorizer("r", Credentials("", "", identity_token="kept"), server)
    assert await authorizer.answer(BEARER, "s", None) == "Bearer fresh"
    form = {
        "grant_type": "refresh_token",
        "refresh_token": "kept",
        "client_id": "imagedist",
        "scope": "s",
        "service": "registry",
    }
    assert server.asked == [TokenRequest("https://auth.example/token", {}, None, form)]
    assert await authorizer.answer('Basic realm="r"', "other", None) is None


async def test_refused_credentials_are_not_offered_again() -> None:
    authorizer = Authorizer("r", Credentials("u", "p"), TokenServer())
    assert await authorizer.answer('Basic realm="r"', "s", None) == "Basic dTpw"
    assert await authorizer.answer('Basic realm="r"', "s", "Basic dTpw") is None


class Rotating:
    """Credentials that are looked up: ``now`` is what is found."""

    def __init__(self, now: Credentials | None) -> None:
        self.now = now
        self.refused: list[Credentials | None] = []

    async def __call__(self, refused: Credentials | None) -> Credentials | None:
        self.refused.append(refused)
        return self.now


@pytest.mark.parametrize("challenge", ['Basic realm="r"', BEARER])
async def test_credentials_that_have_changed_are_found_when_the_old_ones_are_refused(challenge: str) -> None:
    server, found = TokenServer(), Rotating(ALICE)
    authorizer = Authorizer("r", found, server)
    first = await authorizer.answer(challenge, "s", None)
    found.now = BOB
    second = await authorizer.answer(challenge, "s", first)
    assert second not in (None, first)
    assert found.refused == [None, ALICE]
    assert authorizer.current("s") == second


async def test_token_server_that_refuses_old_credentials_is_asked_with_the_new_ones() -> None:
    server, found = TokenServer(), Rotating(ALICE)
    server.refused = {ALICE.basic()}

    async def rotate(refused: Credentials | None) -> Credentials | None:
        if refused is not None:
            found.now = BOB
        return await found(refused)

    assert await Authorizer("r", rotate, server).answer(BEARER, "s", None) == f"Bearer {BOB.basic()[6:]}.s"
    assert [request.authorization for request in server.asked] == [ALICE.basic(), BOB.basic()]
    server.refused.add(BOB.basic())
    with pytest.raises(UnauthorizedError):
        await Authorizer("r", rotate, server).answer(BEARER, "s", None)


async def test_credentials_are_not_looked_up_before_they_are_asked_for() -> None:
    found = Rotating(ALICE)
    authorizer = Authorizer("r", found, TokenServer())
    assert authorizer.current("s") is None
    assert found.refused == []


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
