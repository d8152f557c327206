"""The agent's socket: orders, events, clients that go away, and who owns the path."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from imagedist.agent.api import SocketApi
from imagedist.agent.app import listening
from imagedist.agent.client import AgentClient, find_socket
from imagedist.agent.events import Events
from imagedist.agent.limits import NodeLimits
from imagedist.agent.protocol import LimitsOrder, PullRequest
from imagedist.agent.source import NodeSource
from imagedist.config import AgentConfig
from imagedist.distribution.changing_rate import ChangingRate
from imagedist.errors import ImagedistError, InputError, NotFoundError, SourceError
from imagedist.oci.digest import Digest
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Event, Observer

ORDER = PullRequest(reference="registry.example/app:1")
LAYER = Digest.of(b"layer")
Work = Callable[[Observer], Awaitable[None]]


class Node:
    """Stands for puller, blobs and site of an agent: does what it is given, and notes what became of it."""

    def __init__(self) -> None:
        self.received_bytes: dict[str, int] = {}
        self.given_bytes = 0
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.running = 0
        self.may_end = asyncio.Event()
        self.site_failure: ImagedistError | None = None
        self.failure: Exception | None = None
        self.limits: tuple[int | None, int | None] = (None, None)

    def transfers(self) -> list[Any]:
        return []

    def set_limits(self, upload: int | None, download: int | None, connections: int | None = None) -> None:
        self.limits = (upload, download)

    async def pull(self, reference: Reference, platform: Platform, observe: Observer, source: NodeSource) -> None:
        self.running += 1
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
        if self.failure:
            raise self.failure
        observe(Event(event="done", reference=str(reference), seconds=0.0, bytes=0))

    async def prefix(self, registry: str) -> str:
        if self.site_failure:
            raise self.site_failure
        return "docker.io"


class Agent:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent.sock"
        self.node = Node()
        self._clients = ThreadPoolExecutor(100, thread_name_prefix="client")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Agent:
        await self._stack.enter_async_context(listening(self.create_app(), self.path))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()
        self._clients.shutdown(wait=False)

    def create_app(self) -> Any:
        tables = {"agent": {"site_proxies": ["http://127.0.0.1:1"]}, "limits": {"upload": "1MB/s"}}
        config = AgentConfig.model_validate(tables)
        node: Any = self.node
        limits = NodeLimits(config.limits, node, ChangingRate(None), lambda: self.node.received_bytes)
        return SocketApi(config, "127.0.0.1:5050", node, node, node, node, node, limits).create_app()

    async def pull(self, observe: Observer) -> Event:
        return await asyncio.get_running_loop().run_in_executor(
            self._clients, AgentClient(self.path).pull, ORDER, observe
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_client_cancels_its_pull(tmp_path: Path, number: int) -> None:
    async with Agent(tmp_path) as agent:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagedist", "pull", ORDER.reference, "--socket", str(agent.path)),
            stderr=asyncio.subprocess.PIPE,
        )
        await agent.node.began.wait()
        process.send_signal(number)
        await agent.node.cancelled.wait()
        _, complaint = await process.communicate()
    assert (process.returncode, complaint) == (130, b"imagedist: interrupted; nothing half-done was kept\n")


async def test_a_client_that_is_killed_in_mid_request_cancels_its_pull(tmp_path: Path) -> None:
    async with Agent(tmp_path) as agent:
        body = json.dumps({"reference": ORDER.reference}).encode()
        _, writer = await asyncio.open_unix_connection(agent.path)
        writer.write(b"POST /v1/pull HTTP/1.1\r\nHost: agent\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await agent.node.began.wait()
        writer.transport.abort()
        await agent.node.cancelled.wait()


@pytest.mark.parametrize(
    ("failure", "told_as"),
    [
        (InputError("not a name"), InputError),
        (NotFoundError("no tag"), ImagedistError),
        (KeyError("x"), ImagedistError),
    ],
)
async def test_what_went_wrong_there_is_raised_here_with_its_exit_code(
    tmp_path: Path, failure: Exception, told_as: type[ImagedistError]
) -> None:
    async with Agent(tmp_path) as agent:
        agent.node.failure = failure
        agent.node.may_end.set()
        with pytest.raises(ImagedistError, match=str(failure.args[0])) as caught:
            await agent.pull(lambda event: None)
    assert caught.type is told_as


async def test_a_failed_pull_is_one_line_for_the_user_and_no_error_of_the_agents_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Agent(tmp_path) as agent:
        agent.node.failure = NotFoundError("no tag")
        agent.node.may_end.set()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagedist", "pull", ORDER.reference, "--socket", str(agent.path)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaint = await process.communicate()
        assert (process.returncode, complaint) == (1, b"imagedist: no tag\n")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_agent_that_stops_in_mid_pull_is_a_source_that_failed(tmp_path: Path) -> None:
    async with Agent(tmp_path) as agent:
        pulling = asyncio.create_task(agent.pull(lambda event: None))
        await agent.node.began.wait()
    with pytest.raises(SourceError):
        await pulling
    assert agent.node.cancelled.is_set()


async def test_pulls_beyond_the_bound_wait_and_say_so_and_a_flood_is_refused(tmp_path: Path) -> None:
    events: list[Event] = []
    async with Agent(tmp_path) as agent:
        pulling = [asyncio.create_task(agent.pull(events.append)) for _ in range(8 + 64 + 1)]
        done, _ = await asyncio.wait(pulling, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(ImagedistError, match="too many"):
            await done.pop()
        assert agent.node.running == 8
        agent.node.may_end.set()
        ended = await asyncio.gather(*pulling, return_exceptions=True)
    assert sum(isinstance(end, Event) for end in ended) == 8 + 64
    assert any(event.event == "waiting" and "waits" in (event.message or "") for event in events)


async def test_a_closed_pipe_of_the_clients_own_is_not_blamed_on_the_agent(tmp_path: Path) -> None:
    def closed(event: Event) -> None:
        raise BrokenPipeError

    async with Agent(tmp_path) as agent:
        agent.node.may_end.set()
        with pytest.raises(BrokenPipeError):
            await agent.pull(closed)


@pytest.mark.parametrize(
    ("failure", "told_as"), [(NotFoundError("serves no registry"), InputError), (SourceError("is gone"), SourceError)]
)
async def test_an_unknown_registry_is_the_users_mistake_and_a_dead_site_is_not(
    tmp_path: Path, failure: ImagedistError, told_as: type[ImagedistError]
) -> None:
    async with Agent(tmp_path) as agent:
        agent.node.site_failure = failure
        with pytest.raises(told_as, match=str(failure)):
            await asyncio.to_thread(AgentClient(agent.path).prefix, "docker.io")


async def test_limits_are_changed_one_at_a_time_and_say_where_they_come_from(tmp_path: Path) -> None:
    async with Agent(tmp_path) as agent:
        client = AgentClient(agent.path)
        told = await asyncio.to_thread(client.limits)
        assert (told.upload.bytes_per_second, told.upload.source) == (1_000_000, "file")
        assert (told.download.bytes_per_second, told.download.source) == (None, "default")
        told = await asyncio.to_thread(client.change_limits, LimitsOrder(download="4MB/s"))
        assert (told.download.bytes_per_second, told.download.source) == (4_000_000, "command")
        assert (told.upload.bytes_per_second, told.upload.source) == (1_000_000, "file")
        assert agent.node.limits == (1_000_000, 4_000_000)
        told = await asyncio.to_thread(client.change_limits, LimitsOrder(upload="none"))
        assert (told.upload.bytes_per_second, told.upload.file_bytes_per_second) == (None, 1_000_000)
        assert agent.node.limits == (None, 4_000_000)
        told = await asyncio.to_thread(client.change_limits, LimitsOrder(reset=True))
        assert (told.upload.source, told.download.source) == ("file", "default")
        assert agent.node.limits == (1_000_000, None)
        with pytest.raises(InputError, match="expected a rate such as"):
            await asyncio.to_thread(client.change_limits, LimitsOrder(upload="fast", download="1MB/s"))
        assert agent.node.limits == (1_000_000, None)


async def test_swarm_on_a_terminal_is_shown_afresh_until_ctrl_c(tmp_path: Path) -> None:
    def seen(terminal: int) -> bytes:
        output = b""
        while output.count(b"P2P share 75%") < 2:
            output += os.read(terminal, 4096)
        return output

    async with Agent(tmp_path) as agent:
        agent.node.received_bytes = {"peer": 3_000_000, "proxy": 1_000_000}
        agent.node.given_bytes = 2_000_000
        terminal, its_end = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagedist", "swarm", "--socket", str(agent.path)),
            stdout=its_end,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
        )
        os.close(its_end)
        output = await asyncio.to_thread(seen, terminal)
        process.send_signal(signal.SIGINT)
        _, complaint = await process.communicate()
        os.close(terminal)
    assert (process.returncode, complaint) == (0, b"")
    assert b"0 torrents" in output
    assert b"2.0 MB given to peers" in output


async def test_swarm_in_a_pipe_or_once_is_one_table(tmp_path: Path) -> None:
    async with Agent(tmp_path) as agent:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagedist", "swarm", "--socket", str(agent.path)),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output.decode().splitlines()[-1] == "P2P share - since the agent's start"


async def test_the_limit_command_shows_and_changes(tmp_path: Path) -> None:
    async def limit(*words: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "imagedist", "limit", "--socket", str(agent.path), *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    async with Agent(tmp_path) as agent:
        code, text = await limit("--upload", "2MB/s")
        assert code == 0
        assert [" ".join(line.split()) for line in text.splitlines()] == [
            "LIMIT NOW SET BY",
            "upload 2.0 MB/s 0 bytes/s a command, until the agent ends; then 1.0 MB/s",
            "download none 0 bytes/s default",
            "connections 400 0 default",
            "quiet off default",
        ]
        code, text = await limit("--quiet", "--connections", "100")
        assert code == 0
        assert [" ".join(line.split()) for line in text.splitlines()[1:]] == [
            "upload 1.0 MB/s 0 bytes/s quiet mode; else 2.0 MB/s",
            "download none 0 bytes/s default",
            "connections 50 0 quiet mode; else 100",
            "quiet on a command, until the agent ends",
        ]
        code, text = await limit("--json")
        told = json.loads(text)
        assert told["upload"]["bytes_per_second"] == 2_000_000
        assert (told["connections"]["at_most"], told["quiet"]["is_quiet"]) == (100, True)


async def test_only_owner_and_group_may_use_the_socket_and_it_goes_with_the_agent(tmp_path: Path) -> None:
    async with Agent(tmp_path) as agent:
        assert agent.path.stat().st_mode & 0o777 == 0o660
    assert not agent.path.exists()


async def test_a_second_agent_is_refused_and_the_first_ones_socket_stays(tmp_path: Path) -> None:
    async with Agent(tmp_path) as agent:
        with pytest.raises(InputError, match="another agent listens"):
            async with Agent(tmp_path):
                pass
        assert (await asyncio.to_thread(AgentClient(agent.path).status)).mirror == "127.0.0.1:5050"


async def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "agent.sock"))
    async with Agent(tmp_path) as agent:
        await asyncio.to_thread(AgentClient(agent.path).status)


async def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "agent.sock").write_text("precious")
    with pytest.raises(InputError, match="no socket"):
        async with Agent(tmp_path):
            pass
    assert (tmp_path / "agent.sock").read_text() == "precious"


async def test_events_a_slow_client_left_waiting_are_added_up() -> None:
    events = Events()
    events.put(Event(event="resolved"))
    for _ in range(10_000):
        events.put(Event(event="fetched", layer=LAYER, bytes=2))
        events.put(Event(event="extracted", layer=LAYER, bytes=3))
    events.put(Event(event="extracted", layer=LAYER, bytes=1, is_complete=True))
    events.put(Event(event="merged", layer=LAYER))
    events.end()
    told = []
    while (event := await events.get()) is not None:
        told.append((event.event, event.bytes, event.is_complete))
    sums = [("fetched", 20_000, None), ("extracted", 30_001, True)]
    assert told == [("resolved", None, None), *sums, ("merged", None, None)]


async def test_events_come_as_they_happen() -> None:
    events = Events()
    reading = asyncio.create_task(events.get())
    await asyncio.sleep(0)
    events.put(Event(event="note"))
    assert await reading == Event(event="note")
    ending = asyncio.create_task(events.get())
    await asyncio.sleep(0)
    events.end()
    assert await ending is None


def test_the_file_a_killed_agent_left_is_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    monkeypatch.setenv("IMAGEDIST_SOCKET", str(left))
    with pytest.raises(InputError, match="no agent listens at"):
        find_socket(None)
