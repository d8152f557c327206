"""The command line's end of the agent's Unix socket."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
from pydantic import ValidationError

from imagedist.agent.protocol import AgentStatus, PullRequest, Transfers
from imagedist.errors import ImagedistError, InputError, SourceError
from imagedist.progress import Event, Observer
from imagedist.swarm.session import TransferStatus

DEFAULT_SOCKET = Path("/run/imagedist/agent.sock")

_CONNECT_SECONDS = 5
_ANSWER = aiohttp.ClientTimeout(total=30)
_LINE_LIMIT_BYTES = 1 << 20


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
    """Talks to one agent. Use as an async context manager."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS)
        self._http = aiohttp.ClientSession(
            "http://agent",
            connector=aiohttp.UnixConnector(str(socket)),
            timeout=timeout,
            read_bufsize=_LINE_LIMIT_BYTES,
        )

    async def __aenter__(self) -> AgentClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.close()

    async def status(self) -> AgentStatus:
        """Raises SourceError: the agent does not answer."""
        try:
            async with self._http.get("/v1/agent", timeout=_ANSWER) as response:
                return AgentStatus.model_validate(await response.json())
        except (aiohttp.ClientError, OSError, ValidationError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def transfers(self) -> tuple[TransferStatus, ...]:
        """Every torrent of the node. Raises SourceError: the agent does not answer."""
        try:
            async with self._http.get("/v1/transfers", timeout=_ANSWER) as response:
                return Transfers.model_validate(await response.json()).transfers
        except (aiohttp.ClientError, OSError, ValidationError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def prefix(self, registry: str) -> str:
        """The path prefix under which the site's proxy serves a registry.

        Raises:
            SourceError: no answer. InputError: the site has no such upstream; names those it has.
        """
        try:
            async with self._http.get("/v1/prefix", params={"registry": registry}, timeout=_ANSWER) as response:
                answer = await response.json()
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if response.status != 200:
            kind = InputError if response.status == 404 else SourceError
            raise kind(str(answer.get("message", f"the site serves no registry {registry}")))
        return str(answer["prefix"])

    async def pull(self, request: PullRequest, observe: Observer) -> Event:
        """Has the agent pull an image; passes its events on and returns the last one.

        Raises:
            ImagedistError: what went wrong there, with its exit code. SourceError: the agent went away.
        """
        last: Event | None = None
        async with contextlib.aclosing(self._events(request)) as events:
            async for last in events:
                if last.event == "error":
                    raise _told(last)
                observe(last)  # outside of what is mapped below: a closed pipe of ours is not the agent's fault
        if last is None or last.event != "done":
            raise SourceError(f"the agent at {self._socket} stopped before the pull was done; pull again")
        return last

    async def _events(self, request: PullRequest) -> AsyncGenerator[Event, None]:
        try:
            async with self._http.post("/v1/pull", json=request.model_dump()) as response:
                async for line in response.content:
                    yield Event.model_validate_json(line)
        except aiohttp.ClientPayloadError as error:
            raise SourceError(f"the agent at {self._socket} stopped before the pull was done; pull again") from error
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> SourceError:
        cause = error.os_error.strerror if isinstance(error, aiohttp.ClientConnectorError) else error
        why = cause or type(error).__name__
        return SourceError(
            f"the agent at {self._socket} does not answer ({why}); see `imagedist doctor`, or pull with --no-agent"
        )


def _told(event: Event) -> ImagedistError:
    kind = InputError if event.exit_code == InputError.exit_code else ImagedistError
    return kind(event.message or "the agent failed without a message")
