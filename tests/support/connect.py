"""An HTTP proxy in this process that knows CONNECT (RFC 9110 §9.3.6), to loopback whatever the name."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from tests.support.socks import copy


class ConnectProxy:
    """Use as a context. ``asked``: the ``host:port`` of each CONNECT; ``logins``: what came as Proxy-Authorization."""

    def __init__(self, *, refuses: bool = False) -> None:
        self._refuses = refuses
        self.asked: list[str] = []
        self.logins: set[str] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.splitlines()[0].split()
            if self._refuses:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                return
            assert method == "CONNECT"
            self.asked.append(target)
            for line in head.splitlines()[1:]:
                name, _, value = line.partition(":")
                if name.lower() == "proxy-authorization":
                    self.logins.add(value.strip())
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        writer.close()
