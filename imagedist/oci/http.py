"""What the registry client asks of an HTTP client: one request, no redirects, nothing decoded. Two can do it.

``http_aiohttp`` waits on the event loop, for services with many requests at a time; ``http_threads`` waits in threads,
for a process that does one pull: aiohttp's import would take a third of its start. One contract test runs on both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

CONNECT_SECONDS = 10.0
STALL_SECONDS = 60.0
"""The longest pause within a blob's body."""


FILL_SECONDS = 0.5
"""Bytes that came are passed on after so long, however few they are."""


class RawBody(Protocol):
    """The rest of a body, read by one thread without the event loop."""

    def fill(self, buffer: memoryview) -> int:
        """Reads until the buffer is full. Returns how many bytes there are; fewer: they come slowly, end or break off.

        Raises:
            OSError: it broke off, or stood still, before the first byte.
        """

    def stop(self) -> None:
        """Ends a ``fill`` under way in another thread."""

    def close(self) -> None: ...


class Answer(Protocol):
    """Status and headers have arrived, the body may still be on its way."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By name in any case; of several with one name the first."""

    @property
    def content_length(self) -> int | None:
        """As stated; None: the body ends when it ends."""

    async def read(self, limit_bytes: int) -> bytes:
        """The next bytes of the body; none: its end.

        Raises:
            OSError: it broke off or stood still.
        """

    def raw_body(self) -> RawBody | None:
        """None: go on with ``read``. Otherwise nothing else is read any more."""

    async def close(self) -> None:
        """What has not been read is not drained."""


class Http(Protocol):
    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        name: str,
        stall_seconds: float,
        form: bytes | None = None,
    ) -> Answer:
        """One request.

        Args:
            url: sent as it is: a signed one must not be quoted again.
            name: the registry, for messages.
            stall_seconds: the longest pause in the answer.
            form: a small body.

        Raises:
            TransientError: the registry cannot be reached. SourceError: it never will be, at this URL or by TLS.
        """

    async def close(self) -> None: ...


class Headers(Mapping[str, str]):
    """A small case-insensitive mapping."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), value)

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def unreachable(name: str, error: Exception) -> str:
    cause = str(error).partition("\n")[0] or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
    remedy = "check the name, the port or --plain-http"
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        remedy = "check its certificate, both clocks, and which authorities are trusted (SSL_CERT_FILE; ca_file)"
    return f"cannot reach registry {name}: {cause}; {remedy}"


def unaskable(name: str, url: str, error: Exception) -> str:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"registry {name} cannot be asked at {url[:200]!r}: {cause}"
