"""Registry clients of the site's proxies, one for each registry name that nodes ask for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from imagedist.distribution.backend import Target
from imagedist.oci.client import RegistryClient
from imagedist.oci.http import STALL_SECONDS
from imagedist.oci.http_aiohttp import AiohttpClient
from imagedist.oci.tls import Tls

_CLIENTS = 64


class Clients:
    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._clients: OrderedDict[tuple[str, str | None], RegistryClient] = OrderedDict()

    def of(self, url: str, target: Target) -> RegistryClient:
        """The client of a proxy that asks for the target's registry, with the target's credentials."""
        key = (url, target.namespace)
        client = self._clients.get(key)
        if client is not None:
            self._clients.move_to_end(key)
        else:
            client = self._clients[key] = RegistryClient(
                url,
                namespace=target.namespace,
                http=AiohttpClient(tls=self._tls) if self._tls is not None else None,
                answer_seconds=STALL_SECONDS,  # longer than the proxy may take to ask upstream again
            )
            # One client per registry name; hostile names must not pile up connections.
            while len(self._clients) > _CLIENTS:
                _, dropped = self._clients.popitem(last=False)
                asyncio.get_running_loop().create_task(dropped.close())
        return client.sending(target.authorization)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
