"""Connections through a SOCKS proxy (the only owner of aiohttp-socks)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from aiohttp_socks import ProxyConnector
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType

from imagedist.oci.proxies import Proxy


class SocksConnector(ProxyConnector):
    """A connector of aiohttp; what fails at the proxy or behind it is a ConnectionError."""

    @classmethod
    def to(cls, proxy: Proxy, settings: dict[str, Any]) -> SocksConnector:
        """Args: settings: those of ``aiohttp.TCPConnector``."""
        parts = urlsplit(proxy.url)
        return cls(
            parts.hostname or "",
            parts.port or 0,
            # The library knows two kinds, and by an argument who resolves names.
            ProxyType.SOCKS4 if parts.scheme.startswith("socks4") else ProxyType.SOCKS5,
            username=proxy.username,
            password=proxy.password,
            rdns=proxy.resolves,
            **settings,
        )

    async def _connect_via_proxy(self, *args: Any, **settings: Any) -> Any:
        try:
            return await super()._connect_via_proxy(*args, **settings)
        except (ProxyError, ProxyConnectionError, ProxyTimeoutError) as error:
            raise ConnectionError(f"SOCKS proxy {self._proxy_host}:{self._proxy_port}: {error}") from error
