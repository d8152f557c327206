"""What a registry is given and what it asks for: credentials, and the challenges of a 401."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

_CHALLENGE = re.compile(
    r"""[\s,]*(?P<word>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"""
    r"""(?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[!#$%&'*+.^_`|~0-9A-Za-z:/-]+)))?"""
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password, or an identity token that a token server changes for others (OAuth 2).

    Attributes:
        identity_token: what ``docker login`` keeps where the registry gave one; name and password are not used then.
    """

    username: str
    password: str
    identity_token: str | None = None

    def basic(self) -> str:
        """The value of ``Authorization``. An identity token goes under an empty name, as ``parse_basic`` reads it."""
        pair = f":{self.identity_token}" if self.identity_token else f"{self.username}:{self.password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

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


FindCredentials = Callable[[Credentials | None], Awaitable[Credentials | None]]
"""Looks credentials up when a registry asks for some: (those it has just refused, or None) → those to try.

Raises:
    ImagedistError: they cannot be read; names the file or the program.
"""


def parse_basic(authorization: str) -> Credentials | None:
    """Reads the value of an ``Authorization`` header (RFC 7617); None: it is another scheme's, or malformed."""
    scheme, _, encoded = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    if colon and not username and password:  # as containerd sends an identity token
        return Credentials("", "", identity_token=password)
    return Credentials(username, password) if colon else None
