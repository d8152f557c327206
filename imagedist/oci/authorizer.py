"""The ``Authorization`` of each request: Basic, or a token asked from the registry's token server and kept.

Sources: the distribution project's token specification, its OAuth 2 form for identity tokens, RFC 6750.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from imagedist.errors import SourceError, UnauthorizedError
from imagedist.oci.auth import Credentials, FindCredentials, parse_basic, parse_challenges
from imagedist.oci.fields import Fields, MalformedError

_TOKENS = 4096
_DEFAULT_LIFE_SECONDS = 60.0
_LONGEST_LIFE_SECONDS = 3600.0
_BASIC_LIFE_SECONDS = 60.0
"""After which a file or a program is asked again whether these are still the credentials."""
_MARGIN = 0.9
"""Of a token's life: it must still be valid when the registry looks at it."""
_CLIENT_ID = "imagedist"


class TokenRequest(NamedTuple):
    """``form``: sent by POST; None: ``query`` by GET."""

    realm: str
    query: Mapping[str, str]
    authorization: str | None = None
    form: Mapping[str, str] | None = None


FetchToken = Callable[[TokenRequest], Awaitable[bytes]]
"""Asks a token server: the body of its answer."""


class Tokens:
    """The ``Authorization`` values of one registry by user and scope, until they expire; bounded, oldest out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        self._asking: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def get(self, user: str, scope: str) -> str | None:
        value, expires = self._kept.get((user, scope), (None, 0.0))
        return value if self._clock() < expires else None

    def put(self, user: str, scope: str, value: str, life_seconds: float) -> None:
        self._kept[user, scope] = (value, self._clock() + life_seconds)
        self._kept.move_to_end((user, scope))
        while len(self._kept) > _TOKENS:
            self._kept.popitem(last=False)

    def asking(self, user: str, scope: str) -> asyncio.Lock:
        """Held while a value is asked for; different scopes and users do not wait for each other."""
        return self._asking.setdefault((user, scope), asyncio.Lock())


class Authorizing(Protocol):
    """Whose ``Authorization`` a registry is sent."""

    def current(self, scope: str) -> str | None:
        """What to send at once, from an earlier challenge."""

    async def answer(self, header: str, scope: str, refused: str | None) -> str | None:
        """What to send after a 401.

        Args:
            header: the answer's ``WWW-Authenticate``.
            refused: what was sent, if anything.

        Returns:
            None when there is nothing (else) to offer.

        Raises:
            SourceError: the token server failed. UnauthorizedError: it wants other credentials.
            ImagedistError: the credentials cannot be read.
        """


class Authorizer:
    """One user at one registry, by Basic or by tokens kept until they expire (``Authorizing``).

    Args:
        name: the registry, for messages.
        credentials: of the user, or how to find them; None: anonymous.
        fetch_token: asks the token server.
        is_plain: plain HTTP was asked for, so a token server may be plain as well.
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials | FindCredentials | None,
        fetch_token: FetchToken,
        *,
        is_plain: bool = False,
        clock: Callable[[], float] = time.monotonic,
        tokens: Tokens | None = None,
        user: str = "",
    ) -> None:
        self._name = name
        self._credentials = credentials
        self._fetch_token = fetch_token
        self._is_plain = is_plain
        self._tokens = tokens or Tokens(clock)
        self._clock = clock
        self._user = user
        self._tried: Credentials | None = None

    def of_header(self, authorization: str) -> Authorizing:
        """Another user's, by the ``Authorization`` that he sent: Basic becomes whatever the registry asks for, anything
        else (a token) is passed on as it is. Kept apart from every other user's."""
        credentials = parse_basic(authorization)
        if credentials is None:
            return SentAsItIs(authorization)
        user = hashlib.sha256(authorization.encode()).hexdigest()
        return Authorizer(
            self._name,
            credentials,
            self._fetch_token,
            is_plain=self._is_plain,
            clock=self._clock,
            tokens=self._tokens,
            user=user,
        )

    def current(self, scope: str) -> str | None:
        return self._tokens.get(self._user, scope)

    async def answer(self, header: str, scope: str, refused: str | None) -> str | None:
        async with self._tokens.asking(self._user, scope):
            current = self.current(scope)
            if current is not None and current != refused:
                return current  # another task has asked meanwhile
            credentials = await self._find(self._tried if refused is not None else None)
            try:
                offered = await self._offer(header, scope, credentials)
            except UnauthorizedError:
                newer = await self._find(credentials)
                if newer == credentials:
                    raise
                offered = await self._offer(header, scope, newer)
            if offered is None or offered[0] == refused:
                return None
            value, life_seconds = offered
            self._tokens.put(self._user, scope, value, life_seconds)
            return value

    async def _find(self, refused: Credentials | None) -> Credentials | None:
        if self._credentials is None or isinstance(self._credentials, Credentials):
            return self._credentials
        self._tried = await self._credentials(refused)
        return self._tried

    async def _offer(self, header: str, scope: str, credentials: Credentials | None) -> tuple[str, float] | None:
        """The first challenge that can be answered: the answer, and for how many seconds it is good."""
        for challenge in parse_challenges(header):
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return await self._bearer(challenge.parameters, scope, credentials)
            if challenge.scheme == "basic" and credentials and credentials.identity_token is None:
                return credentials.basic(), _BASIC_LIFE_SECONDS
        return None

    async def _bearer(
        self, parameters: Mapping[str, str], scope: str, credentials: Credentials | None
    ) -> tuple[str, float]:
        realm = parameters["realm"]
        if urlsplit(realm).scheme != "https" and not (self._is_plain and urlsplit(realm).scheme == "http"):
            raise SourceError(f"registry {self._name} names a token server that is not HTTPS: {realm[:200]!r}")
        query = {"scope": parameters.get("scope") or scope}
        if "service" in parameters:
            query["service"] = parameters["service"]
        request = TokenRequest(realm, query, credentials.basic() if credentials else None)
        if credentials is not None and credentials.identity_token is not None:
            form = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token, "client_id": _CLIENT_ID}
            request = TokenRequest(realm, {}, None, form | query)
        body = await self._fetch_token(request)
        try:
            answer = Fields.parse(body)
            token = answer.text("token") or answer.text("access_token")
            life_seconds = answer.count("expires_in", 0) or _DEFAULT_LIFE_SECONDS
        except MalformedError as error:
            raise SourceError(f"the token server of registry {self._name} sent no token") from error
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise SourceError(f"the token server of registry {self._name} sent no token")
        return f"Bearer {token}", min(life_seconds, _LONGEST_LIFE_SECONDS) * _MARGIN


class SentAsItIs:
    """What somebody else sent, passed on: a node's client to the site's proxy (``Authorizing``)."""

    def __init__(self, authorization: str | None) -> None:
        self._authorization = authorization

    def current(self, scope: str) -> str | None:
        return self._authorization

    async def answer(self, header: str, scope: str, refused: str | None) -> str | None:
        return None
