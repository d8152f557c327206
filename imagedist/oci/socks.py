"""Connections through a SOCKS proxy (the only owner of aiohttp-socks)."""

from __future__ import annotations

from typing import Any

from aiohttp_socks import ProxyConnector
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError

from imagedist.oci.proxies import Proxy


class SocksConnector(ProxyConnector):
    """A connector of aiohttp; what fails at the proxy or behind it is a ConnectionError."""

    @classmethod
    def to(cls, proxy: Proxy, settings: dict[str, Any]) -> SocksConnector:
        """Args: settings: those of ``aiohttp.TCPConnector``."""
        scheme, rest = proxy.url.split(":", 1)
        # The library knows socks4 and socks5 only, and who resolves names by an argument.
        url = f"{scheme.removesuffix('h').removesuffix('a')}:{rest}"
        connector = cls.from_url(url, rdns=proxy.resolves, **settings)
        assert isinstance(connector, cls)
        return connector

    async def _connect_via_proxy(self, *args: Any, **settings: Any) -> Any:
        try:
            return await super()._connect_via_proxy(*args, **settings)
        except (ProxyError, ProxyConnectionError, ProxyTimeoutError) as error:
            raise ConnectionError(f"SOCKS proxy {self._proxy_host}:{self._proxy_port}: {error}") from error
