"""One request at a time, as it is written: nothing normalised, followed or decoded on the way."""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

_PATIENCE_SECONDS = 60.0
_MOMENT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The distribution spec's error code; the body must have the spec's form ("Error Codes")."""
        errors = self.json["errors"]
        assert set(errors[0]) <= {"code", "message", "detail"}
        code: str = errors[0]["code"]
        return code


class Server:
    def __init__(self, address: str) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers)

    def head(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("HEAD", path, headers)

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_PATIENCE_SECONDS)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {**({"Content-Length": str(len(body))} if body else {}), **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        """Whatever bytes, and all that is answered until the connection ends.

        A server that still waits for more is told after a moment that there is none.
        """
        with socket.create_connection((self.host, self.port), _PATIENCE_SECONDS) as connection:
            parts: list[bytes] = []
            try:
                connection.sendall(request)
                while select.select([connection], [], [], _MOMENT_SECONDS)[0]:
                    if not (part := connection.recv(1 << 16)):
                        return b"".join(parts)
                    parts.append(part)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(1 << 16):
                    parts.append(part)
            except (ConnectionError, BrokenPipeError):
                pass  # refused before all was sent
        return b"".join(parts)
