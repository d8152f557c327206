"""The command line's end of the agent's Unix socket: blocking, and nothing but the standard library until it is asked.

HTTP/1.0: an answer's body is what comes until the end, so a socket and ``readline`` are the whole client. http.client
would do the same and costs 40 ms at every start (it imports ssl and email), aiohttp 250 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket as sockets
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import quote

from imagedist.errors import ChallengeError, ImagedistError, InputError, SourceError
from imagedist.progress import Event, Observer

if TYPE_CHECKING:
    from imagedist.agent.protocol import AgentStatus, Limits, LimitsOrder, PullRequest, Transfers

T = TypeVar("T")

DEFAULT_SOCKET = Path("/run/imagedist/agent.sock")

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_LINE_LIMIT_BYTES = 1 << 20
_HEADER_LIMIT = 100
_ANSWER_LIMIT_BYTES = 64 << 20


def find_socket(given: Path | None) -> Path | None:
    """The agent's socket: the one given, ``$IMAGEDIST_SOCKET``, or the default if an agent listens there.

    A killed agent leaves its socket's file behind: that is no agent.

    Raises:
        InputError: one was named, but no agent listens there.
    """
    named = given or (Path(os.environ["IMAGEDIST_SOCKET"]) if os.environ.get("IMAGEDIST_SOCKET") else None)
    path = named or DEFAULT_SOCKET
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        with sockets.socket(sockets.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_SECONDS)
            try:
                probe.connect(str(path))
            except (PermissionError, BlockingIOError, TimeoutError):
                pass  # somebody is there: whoever talks to it says what is wrong
            return path
    if named:
        raise InputError(f"no agent listens at {named}: start `imagedist agent`, or leave the socket out")
    return None


class AgentClient:
    """Talks to one agent, a connection for each question."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def status(self) -> AgentStatus:
        """Raises SourceError: the agent does not answer."""
        from imagedist.agent.protocol import AgentStatus

        return self._read(AgentStatus, self._ask("/v1/agent")[1])

    def transfers(self) -> Transfers:
        """Every torrent of the node. Raises SourceError: the agent does not answer."""
        from imagedist.agent.protocol import Transfers

        return self._read(Transfers, self._ask("/v1/transfers")[1])

    def limits(self) -> Limits:
        """The node's caps. Raises SourceError: the agent does not answer."""
        from imagedist.agent.protocol import Limits

        return self._read(Limits, self._understood(*self._ask("/v1/limits")))

    def change_limits(self, order: LimitsOrder) -> Limits:
        """Changes the node's caps; returns them.

        Raises:
            InputError: not a rate. SourceError: the agent does not answer.
        """
        from imagedist.agent.protocol import Limits

        said = {name: value for name, value in asdict(order).items() if value is not None}
        status, body = self._ask("/v1/limits", "PATCH", json.dumps(said).encode())
        if status == 400:
            raise InputError(str(self._read(dict[str, object], body).get("message", "the agent refuses these limits")))
        return self._read(Limits, self._understood(status, body))

    def prefix(self, registry: str) -> str:
        """The path prefix under which the site's proxy serves a registry.

        Raises:
            SourceError: no answer. InputError: the site has no such upstream; names those it has.
        """
        status, body = self._ask(f"/v1/prefix?registry={quote(registry, safe='')}")
        answer = self._read(dict[str, object], body)  # a newer agent may say more
        if status != 200:
            kind = InputError if status == 404 else SourceError
            raise kind(str(answer.get("message", f"the site serves no registry {registry}")))
        return str(answer["prefix"])

    def pull(
        self,
        request: PullRequest,
        observe: Observer,
        *,
        authorization: str | None = None,
        silence_seconds: float | None = None,
    ) -> Event:
        """Has the agent pull an image; passes its events on and returns the last one. Left early, the agent stops.

        Args:
            authorization: the user's credentials for the registry, as its ``Authorization`` would have them.
            silence_seconds: without any event for so long, the agent counts as gone. None: never.

        Raises:
            ImagedistError: what went wrong there, with its exit code. ChallengeError: the user's own credentials are
            wanted. SourceError: the agent went away.
        """
        order = {name: value for name, value in asdict(request).items() if value is not None}
        body = json.dumps(order).encode()
        with self._asking("POST", "/v1/pull", body, silence_seconds, authorization) as (status, answer):
            self._understood(status, b"")
            while line := self._line(answer):
                event = Event.parse(line.decode(errors="replace"))
                if event is None:
                    continue
                if event.event == "error":
                    raise _told(event)
                observe(event)
                if event.event == "done":
                    return event
        raise self._stopped()

    def _line(self, answer: BinaryIO) -> bytes:
        try:
            return answer.readline(_LINE_LIMIT_BYTES)
        except OSError as error:
            raise self._stopped() from error

    def _understood(self, status: int, body: bytes) -> bytes:
        if status != 200:
            raise SourceError(f"the agent at {self.socket} answered {status}: is it of this version?")
        return body

    def _ask(self, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        with self._asking(method, path, body, _ANSWER_SECONDS) as (status, answer):
            try:
                return status, answer.read(_ANSWER_LIMIT_BYTES)
            except OSError as error:
                raise self._unreachable(error) from error

    @contextlib.contextmanager
    def _asking(
        self, method: str, path: str, body: bytes, timeout_seconds: float | None, authorization: str | None = None
    ) -> Iterator[tuple[int, BinaryIO]]:
        """Yields the status and the body, to be read to its end."""
        with sockets.socket(sockets.AF_UNIX) as connection:
            try:
                connection.settimeout(_CONNECT_SECONDS)
                connection.connect(str(self.socket))
                connection.settimeout(timeout_seconds)
                head = f"{method} {path} HTTP/1.0\r\nHost: agent\r\nContent-Length: {len(body)}\r\n"
                head += f"Authorization: {authorization}\r\n\r\n" if authorization is not None else "\r\n"
                connection.sendall(head.encode() + body)
                answer = connection.makefile("rb")
                status = _head(answer)
            except (OSError, ValueError) as error:
                raise self._unreachable(error) from error
            with answer:
                yield status, answer

    def _read(self, shape: type[T], body: bytes) -> T:
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(shape).validate_json(body)
        except ValidationError as error:
            raise self._unreachable(error) from error

    def _stopped(self) -> SourceError:
        return SourceError(f"the agent at {self.socket} stopped before the pull was done; pull again")

    def _unreachable(self, error: Exception) -> SourceError:
        why = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
        return SourceError(
            f"the agent at {self.socket} does not answer ({why}); see `imagedist doctor`, or pull with --no-agent"
        )


def _head(answer: BinaryIO) -> int:
    """Reads the status line and skips the headers. Raises ValueError: not an answer."""
    words = answer.readline(_LINE_LIMIT_BYTES).split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ValueError("not an HTTP answer")
    for _ in range(_HEADER_LIMIT):
        if answer.readline(_LINE_LIMIT_BYTES) in (b"\r\n", b"\n"):
            return int(words[1])
    raise ValueError("headers without an end")


def _told(event: Event) -> ImagedistError:
    message = event.message or "the agent failed without a message"
    if event.code == ChallengeError.code:
        return ChallengeError(message)
    return (InputError if event.exit_code == InputError.exit_code else ImagedistError)(message)
