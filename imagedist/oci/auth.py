"""How a registry is given credentials: challenges, bearer tokens and Basic (distribution token specification)."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from imagedist.errors import SourceError
from imagedist.oci.fields import Fields, MalformedError

_TOKENS = 1024
_DEFAULT_LIFE_SECONDS = 60.0
_LONGEST_LIFE_SECONDS = 3600.0
_MARGIN = 0.9
"""Of a token's life: it must still be valid when the registry looks at it."""

_CHALLENGE = re.compile(
    r"""[\s,]*(?P<word>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"""
    r"""(?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[!#$%&'*+.^_`|~0-9A-Za-z:/-]+)))?"""
)


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str

    def basic(self) -> str:
        """The value of ``Authorization``."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of ``WWW-Authenticate``; scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Reads ``WWW-Authenticate`` (RFC 9110 §11.6.1): several challenges, quoted strings with commas in them."""
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while match := _CHALLENGE.match(header, position):
        position = match.end()
        word = match["word"].lower()
        if match["quoted"] is None and match["plain"] is None:
            found.append((word, {}))
        elif found:
            value = re.sub(r"\\(.)", r"\1", match["quoted"]) if match["quoted"] is not None else match["plain"]
            found[-1][1].setdefault(word, value)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


FetchToken = Callable[[str, Mapping[str, str], str | None], Awaitable[bytes]]
"""(realm, query, Authorization or None) → body of the token server's answer."""


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
        """


class SentAsItIs:
    """What somebody else sent, passed on: a node's client to the site's proxy (``Authorizing``)."""

    def __init__(self, authorization: str | None) -> None:
        self._authorization = authorization

    def current(self, scope: str) -> str | None:
        return self._authorization

    async def answer(self, header: str, scope: str, refused: str | None) -> str | None:
        return None


class Authorizer:
    """The ``Authorization`` values of one registry and user, by scope, kept until they expire (``Authorizing``).

    Args:
        name: the registry, for messages.
        is_plain: plain HTTP was asked for, so a token server may be plain as well.
        fetch_token: asks the token server.
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials | None,
        fetch_token: FetchToken,
        *,
        is_plain: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._credentials = credentials
        self._fetch_token = fetch_token
        self._is_plain = is_plain
        self._clock = clock
        self._asking = asyncio.Lock()
        self._kept: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def current(self, scope: str) -> str | None:
        value, expires = self._kept.get(scope, (None, 0.0))
        return value if self._clock() < expires else None

    async def answer(self, header: str, scope: str, refused: str | None) -> str | None:
        async with self._asking:
            current = self.current(scope)
            if current is not None and current != refused:
                return current  # another task has asked meanwhile
            for challenge in parse_challenges(header):
                if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                    value, life_seconds = await self._bearer(challenge.parameters, scope)
                elif challenge.scheme == "basic" and self._credentials:
                    value, life_seconds = self._credentials.basic(), _LONGEST_LIFE_SECONDS
                else:
                    continue
                if value == refused:
                    return None
                self._kept[scope] = (value, self._clock() + life_seconds)
                while len(self._kept) > _TOKENS:
                    self._kept.popitem(last=False)
                return value
            return None

    async def _bearer(self, parameters: Mapping[str, str], scope: str) -> tuple[str, float]:
        realm = parameters["realm"]
        if urlsplit(realm).scheme != "https" and not (self._is_plain and urlsplit(realm).scheme == "http"):
            raise SourceError(f"registry {self._name} names a token server that is not HTTPS: {realm[:200]!r}")
        query = {"scope": parameters.get("scope") or scope}
        if "service" in parameters:
            query["service"] = parameters["service"]
        basic = self._credentials.basic() if self._credentials else None
        body = await self._fetch_token(realm, query, basic)
        try:
            answer = Fields.parse(body)
            token = answer.text("token") or answer.text("access_token")
            life_seconds = answer.count("expires_in", 0) or _DEFAULT_LIFE_SECONDS
        except MalformedError as error:
            raise SourceError(f"the token server of registry {self._name} sent no token") from error
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise SourceError(f"the token server of registry {self._name} sent no token")
        return f"Bearer {token}", min(life_seconds, _LONGEST_LIFE_SECONDS) * _MARGIN
