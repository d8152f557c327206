"""HTTP by aiohttp, on the event loop: the only owner of how connections to registries are made there."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from imagedist.errors import InputError, SourceError
from imagedist.oci.auth import Credentials
from imagedist.oci.guard import Guard, RefusedAddressError
from imagedist.oci.http import CONNECT_SECONDS, STALL_SECONDS, unaskable, unreachable
from imagedist.oci.proxies import Proxy, environment_proxy
from imagedist.oci.raw_body import RawSocketBody
from imagedist.oci.retries import TransientError
from imagedist.oci.tls import Tls, TlsFiles

BUFFER_BYTES = 512 << 10

FindProxy = Callable[[str], Proxy | None]
"""URL → the proxy on the way to it, or None. Raises InputError."""
Body = BinaryIO | bytes | AsyncIterator[bytes]


def timeouts(stall_seconds: float, connect_seconds: float = CONNECT_SECONDS) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds, sock_read=stall_seconds)


class AiohttpClient:
    """An ``Http`` for many requests at a time; connects when it is first used.

    Without arguments it verifies TLS by the system's authorities, goes through the environment's proxies, and connects
    to any address.

    Args:
        tls: for ``own_host``; of its certificate and key nobody else is shown anything.
        elsewhere_tls: for every other host that the registry names.
        find_proxy: the proxy to a URL.
        guard: which addresses other hosts than ``own_host`` may be at.
        own_host: the host that was configured, and so is trusted to be wherever it is.
        connect_seconds: the longest that one connection may take.
    """

    def __init__(
        self,
        *,
        tls: Tls | None = None,
        elsewhere_tls: Tls | None = None,
        find_proxy: FindProxy = environment_proxy,
        guard: Guard | None = None,
        own_host: str | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._tls = tls
        self._elsewhere_tls = elsewhere_tls
        self._find_proxy = find_proxy
        self._guard = guard
        self._own_host = own_host
        self._connect_seconds = connect_seconds
        self._sessions: dict[tuple[bool, Proxy | None], aiohttp.ClientSession] = {}

    @classmethod
    def with_files(cls, files: TlsFiles | None, url: str) -> Self:
        """
        Args:
            files: for the host of ``url``; their certificate is shown to nobody else.

        Raises:
            ConfigError: a file cannot be read or used; names it.
        """
        if files is None:
            return cls()
        return cls(tls=files.own(), elsewhere_tls=files.elsewhere(), own_host=urlsplit(url).hostname)

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
        return AiohttpAnswer(await self.request(method, url, headers, form, name, stall_seconds), stall_seconds)

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        name: str,
        stall_seconds: float,
    ) -> aiohttp.ClientResponse:
        """``send``, with a body that may be a file, or come bit by bit. Raises as ``send``."""
        try:
            proxy = self._find_proxy(url)
            session = self._session(url, proxy)
            http_proxy = proxy if proxy is not None and not proxy.is_socks else None
            login = _login(http_proxy)
            is_plain = url.startswith("http:")  # then the request itself goes to the proxy, else a CONNECT before it
            return await session.request(
                method,
                URL(url, encoded=True),
                headers={**headers, **login} if is_plain else headers,
                data=body,
                allow_redirects=False,
                timeout=timeouts(stall_seconds, self._connect_seconds),
                proxy=http_proxy.url if http_proxy is not None else None,
                proxy_headers=None if is_plain else login,
            )
        except (aiohttp.InvalidURL, ValueError, InputError, RefusedAddressError) as error:
            raise SourceError(unaskable(name, url, error)) from error
        except aiohttp.ClientSSLError as error:
            raise SourceError(unreachable(name, error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == errno.EPERM:
                raise SourceError(unaskable(name, url, error.os_error)) from error
            raise TransientError(unreachable(name, error)) from error
        except OSError as error:  # of a SOCKS proxy
            raise TransientError(unreachable(name, error)) from error

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def _session(self, url: str, proxy: Proxy | None) -> aiohttp.ClientSession:
        """Sessions differ in what their connectors may do; no connection is used for what another one may not."""
        host = urlsplit(url).hostname or ""
        is_own = host == self._own_host or (self._own_host is None and self._guard is None)
        guard = None if is_own else self._guard
        if guard is not None and proxy is not None and guard.refuses_name(host):
            raise RefusedAddressError(errno.EPERM, f"{host} is refused: it is not a public name")
        tls = self._tls if is_own else self._elsewhere_tls
        context = (
            tls.context() if tls is not None else True
        )  # aiohttp's own: another would read 140 certificates, 40 ms
        key = is_own, proxy
        session = self._sessions.get(key)
        if session is None:
            settings: dict[str, Any] = {"limit": 0, "ssl": context}
            if guard is not None and proxy is None:
                settings["socket_factory"] = guard.open_socket
            session = self._sessions[key] = _bulk_session(_connector(proxy, settings))
        return session


def _login(proxy: Proxy | None) -> dict[str, str]:
    if proxy is None or proxy.username is None:
        return {}
    return {"Proxy-Authorization": Credentials(proxy.username, proxy.password).basic()}


def _connector(proxy: Proxy | None, settings: dict[str, Any]) -> aiohttp.TCPConnector:
    if proxy is None or not proxy.is_socks:
        return aiohttp.TCPConnector(**settings)
    from imagedist.oci.socks import SocksConnector  # here: hardly ever needed

    return SocksConnector.to(proxy, settings)


def _bulk_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """For raw bytes: nothing decoded, no cookies, no limit on the whole."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        read_bufsize=BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=connector,
        timeout=timeouts(STALL_SECONDS),
    )


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
