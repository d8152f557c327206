"""A SOCKS 5 proxy in this process (RFC 1928, 1929): CONNECT only, names resolved to loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import Self


class SocksProxy:
    """Use as a context. ``asked``: the hosts it was given, as they were given.

    Args:
        login: the name and password it demands.
        refuses: answers "connection not allowed by ruleset" to everything.
    """

    def __init__(self, login: tuple[str, str] | None = None, *, refuses: bool = False) -> None:
        self._login = login
        self._refuses = refuses
        self.asked: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._negotiate(reader, writer)
        writer.close()

    async def _negotiate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        await reader.readexactly(count)
        writer.write(b"\x05\x02" if self._login else b"\x05\x00")
        if self._login:
            _, length = await reader.readexactly(2)
            name = (await reader.readexactly(length)).decode()
            password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            is_right = (name, password) == self._login
            writer.write(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(host)
        writer.write(bytes([5, 2 if self._refuses else 0, 0, 1, 127, 0, 0, 1, 0, 0]))
        if self._refuses:
            return
        far_reader, far_writer = await asyncio.open_connection(host if kind == 1 else "127.0.0.1", port)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    writer.close()
