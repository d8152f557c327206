"""Questions of the site API (design.md §4.2) by one HTTP session, and what a refusal means."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

import aiohttp

from imagedist.errors import ChallengeError, NotFoundError, SourceError, UnauthorizedError
from imagedist.oci.tls import Tls

_CONNECT_SECONDS = 3.0
_ANSWER_SECONDS = 30.0
_CONNECTIONS = 1000
"""At a time. Many are held back by the site for long, and no question waits for those: aiohttp's 100 are too few."""
LIMIT_BYTES = 64 << 20
"""Of an answer, which is held in memory: many times what a page of the journal takes, or a torrent."""


class _Answer(aiohttp.ClientResponse):
    async def read(self) -> bytes:
        """Raises ClientPayloadError: it is longer than any site has to say; whoever it is does not end."""
        if self._body is None:
            body = bytearray()
            async for part in self.content.iter_any():
                body += part
                if len(body) > LIMIT_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"an answer of more than {LIMIT_BYTES >> 20} MiB")
            self._body = bytes(body)
        return self._body


class BadRequestError(SourceError):
    """A 400: what was asked is wrong, here and elsewhere."""


class Questions:
    """
    Args:
        node_id: who we are.
        token: the site token, for what changes the site's state.
        tls: for https URLs, if the system's authorities are not enough.
    """

    def __init__(self, node_id: str, token: str | None, tls: Tls | None) -> None:
        self._node_id = node_id
        self._token = token
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def ask(
        self,
        method: str,
        url: str,
        wait_seconds: float,
        query: Mapping[str, str],
        body: object = None,
        authorization: str | None = None,
        *,
        is_operator: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One answer below status 400.

        Args:
            wait_seconds: how long the site may hold it back, beside what answers take anyway.
            body: sent as JSON.
            authorization: of the user on whose behalf it is asked.
            is_operator: shows the site token for what is only read, too: some of that is not for everyone.

        Raises:
            NotFoundError, ChallengeError, UnauthorizedError: it says so. SourceError: refused, or no answer.
        """
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                timeout=timeout,
                response_class=_Answer,
                headers={"X-Imagedist-Node": self._node_id, "User-Agent": "imagedist"},
                connector=aiohttp.TCPConnector(
                    limit=_CONNECTIONS, ssl=self._tls.context() if self._tls is not None else True
                ),
            )
        elif self._tls is not None:
            self._tls.context()  # what was renewed counts for the next connection
        if self._token and (method != "GET" or is_operator):
            authorization = f"Bearer {self._token}"
        headers = {"Authorization": authorization} if authorization else {}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS + wait_seconds):
                async with self._session.request(method, url, params=query, json=body, headers=headers) as response:
                    if response.status >= 400:
                        raise await _refusal(response, url)
                    yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SourceError(
                f"{url.partition('/site')[0]} does not answer: {error or type(error).__name__}"
            ) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _refusal(response: aiohttp.ClientResponse, url: str) -> SourceError | NotFoundError:
    code = ""
    try:
        said = json.loads(await response.read())["error"]
        message, code = str(said["message"]), said["code"]
    except (ValueError, KeyError, TypeError):
        message = f"{url} answered {response.status}"
    if response.status == 401 and code == ChallengeError.code:
        return ChallengeError(message, 401)
    if response.status == 404:
        return NotFoundError(message)
    if response.status in (401, 403):
        return UnauthorizedError(message)
    return BadRequestError(message) if response.status == 400 else SourceError(message)
