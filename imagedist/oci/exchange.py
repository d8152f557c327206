"""One request's way to its answer: challenges, redirects, refusals. Shared by both HTTP clients, owned by neither."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from imagedist import hops
from imagedist.errors import NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.authorizer import Authorizing
from imagedist.oci.retries import TransientError, retry_after_seconds

MAX_REDIRECTS = 5
_SAID_LENGTH = 300
_UNKNOWN_CODES = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ANSWERS = frozenset({200, 206, 416})
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_EXPIRED = frozenset({400, 401, 403, 405, 410})
"""What storage says to a signed URL that is no longer good: the registry signs another one when it is asked again."""


class ElsewhereError(TransientError):
    """Where the registry has sent us does not like the URL: it has expired, or was signed for another method."""


class Exchange:
    """Send ``url`` with ``headers``; give the answer's status and headers to ``again``; repeat while it says so.

    ``Authorization`` goes to the registry's own origin only, never to where it redirects (S3, CDNs).

    Args:
        name: the registry, for messages.
        about: what is asked for, for messages: ``registry/repository:tag`` or ``…@digest``.
        unknown_code: the distribution spec's code of a 404 that does not say which.
        answers: the statuses that are one; those of a GET or HEAD if not given.
    """

    def __init__(
        self,
        url: str,
        authorizer: Authorizing,
        scope: str,
        *,
        name: str,
        about: str,
        unknown_code: str,
        answers: frozenset[int] = _ANSWERS,
    ) -> None:
        self.url = url
        self._authorizer = authorizer
        self._scope = scope
        self._name = name
        self._about = about
        self._unknown_code = unknown_code
        self._answers = answers
        self._origin = _origin(url)
        self._authorization = authorizer.current(scope)
        self._has_answered = False
        self._redirects = 0

    def is_at_home(self) -> bool:
        """Whether it is the registry itself that is asked now, not where it has sent us."""
        return _origin(self.url) == self._origin

    @property
    def headers(self) -> dict[str, str]:
        """``identity``: an encoded body would not have the digest that was asked for."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "imagedist"}
        if self._authorization is not None and self.is_at_home():
            headers["Authorization"] = self._authorization
        return headers

    async def again(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> bool:
        """Whether to send again, to ``url`` as it is now. False: this is the answer (200, 206, or 416 to a range).

        Args:
            body: of an error, as far as it is known: what the registry says goes into the message.

        Raises:
            NotFoundError: 404. UnauthorizedError: 401 or 403 and nothing better to offer.
            TransientError: the registry may answer later. SourceError: anything else.
        """
        hops.heard(headers)
        if status in self._answers:
            return False
        if status in _REDIRECTS:
            self.follow(headers.get("Location", ""))
            return True
        if not self.is_at_home() and status in _EXPIRED:
            host = urlsplit(self.url).netloc.rpartition("@")[2]
            raise ElsewhereError(f"registry {self._name} redirects {self._about} to {host}, which answered {status}")
        if status == 401 and not self._has_answered:
            self._has_answered = True
            challenge = headers.get("WWW-Authenticate", "")
            self._authorization = await self._authorizer.answer(challenge, self._scope, self._authorization)
            if self._authorization is not None:
                return True
        if status in (401, 403):
            raise UnauthorizedError(
                f"registry {self._name} denied {self._about}{_said(body)}; "
                f"check the credentials (docker login {self._name})",
                status,
            )
        if status == 404:
            said = _first_error(body, "code")
            code = said if said in _UNKNOWN_CODES else self._unknown_code
            raise NotFoundError(f"registry {self._name} has no {self._about}{_said(body)}", code)
        message = f"registry {self._name} answered {status} to {self._about}{_said(body)}"
        if status in _TRANSIENT:
            wait_seconds = retry_after_seconds(headers.get("Retry-After"))
            raise TransientError(f"{message}; try again later", wait_seconds, is_down=status != 429)
        raise SourceError(message)

    def follow(self, location: str) -> None:
        """Goes on at a ``Location``; credentials stay with the registry's own origin. Raises SourceError: refused."""
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise SourceError(f"registry {self._name} redirects {self._about} more than {MAX_REDIRECTS} times")
        try:
            url = urljoin(self.url, location)
            parts = urlsplit(url)
            is_allowed = parts.scheme == "https" or (parts.scheme == "http" and self._origin[0] == "http")
            is_allowed = is_allowed and parts.hostname is not None and parts.port != 0
        except ValueError:
            is_allowed = False
        if not location or not is_allowed:
            raise SourceError(f"registry {self._name} redirects {self._about} to {location[:200]!r}, which is refused")
        self.url = url


def _said(body: bytes) -> str:
    """The first message of a registry's error JSON: one line of bounded length."""
    line = "".join(letter for letter in _first_error(body, "message") if letter.isprintable())[:_SAID_LENGTH].strip()
    return f": {line}" if line else ""


def _first_error(body: bytes, field: str) -> str:
    """Of a registry's error JSON (distribution spec, "Error Codes"); empty when it is none."""
    try:
        return str(json.loads(body)["errors"][0][field])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
