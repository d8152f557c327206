"""HTTP by aiohttp, on the event loop."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from imagedist.errors import SourceError
from imagedist.oci.http import CONNECT_SECONDS, STALL_SECONDS, unaskable, unreachable
from imagedist.oci.raw_body import RawSocketBody
from imagedist.oci.retries import TransientError

BUFFER_BYTES = 512 << 10


def bulk_session(stall_seconds: float = STALL_SECONDS) -> aiohttp.ClientSession:
    """A session for raw bytes: nothing decoded, no cookies, no limit on the whole, one on standing still.

    TLS by aiohttp's own context, which verifies: another one would read the system's certificates again, 40 ms.
    """
    return aiohttp.ClientSession(
        auto_decompress=False,
        read_bufsize=BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
        timeout=timeouts(stall_seconds),
    )


def timeouts(stall_seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=stall_seconds)


class AiohttpClient:
    """An ``Http`` for many requests at a time; connects when it is first used."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = bulk_session()
        return self._session

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        name: str,
        stall_seconds: float,
        form: bytes | None = None,
    ) -> AiohttpAnswer:
        try:
            response = await self.session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=form,
                allow_redirects=False,
                timeout=timeouts(stall_seconds),
                proxy=environment_proxy(url),
            )
        except (aiohttp.InvalidURL, ValueError) as error:
            raise SourceError(unaskable(name, url, error)) from error
        except aiohttp.ClientSSLError as error:
            raise SourceError(unreachable(name, error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(unreachable(name, error)) from error
        return AiohttpAnswer(response, stall_seconds)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class AiohttpAnswer:
    def __init__(self, response: aiohttp.ClientResponse, stall_seconds: float) -> None:
        self._response = response
        self._stall_seconds = stall_seconds

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def content_length(self) -> int | None:
        return self._response.content_length

    async def read(self, limit_bytes: int) -> bytes:
        try:
            return await self._response.content.read(limit_bytes)
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from error

    def raw_body(self) -> RawSocketBody | None:
        return RawSocketBody.take(self._response, self._stall_seconds)

    async def close(self) -> None:
        self._response.close()  # not released: an unread rest would have to be drained


def environment_proxy(url: str) -> str | None:
    """``HTTPS_PROXY`` and its kin, by the standard library's rules (aiohttp's own also reads ~/.netrc)."""
    parts = urlsplit(url)
    if parts.hostname is None or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)
