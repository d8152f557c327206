"""Which store a command means when an agent runs on this node, and what it must know of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from imagedist.agent.protocol import AgentStatus
from imagedist.cli import app
from imagedist.overlay.store import OverlayStore
from tests.overlay.stores import APP, NAME, put


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OverlayStore]:
    """The store of an agent whose configuration names ``tmp_path/containers`` in ``used_by``; it has one image."""
    store = OverlayStore(tmp_path / "agents", durability="none")
    put(store, APP)
    used_by = (str(tmp_path / "containers"),)
    status = AgentStatus(version="0", mirror="127.0.0.1:5050", storage_root=str(store.root), used_by=used_by)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1 << 16):  # the first look only connects
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(asdict(status)).encode())
        writer.close()

    monkeypatch.setenv("IMAGEDIST_SOCKET", str(tmp_path / "agent.sock"))
    async with await asyncio.start_unix_server(answer, tmp_path / "agent.sock"):
        yield store


async def imagedist(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def test_without_a_root_the_agents_store_is_meant(store: OverlayStore, tmp_path: Path) -> None:
    assert NAME in (await imagedist("images")).output
    assert json.loads((await imagedist("inspect", NAME)).output)["names"] == [NAME]
    assert json.loads((await imagedist("inspect", NAME, "--json")).output.splitlines()[0])["names"] == [NAME]
    OverlayStore(tmp_path / "other")
    done = await imagedist("images", "--root", str(tmp_path / "other"))
    assert (done.exit_code, NAME in done.output) == (0, False)


@pytest.mark.parametrize("has_root", [True, False])
@pytest.mark.parametrize("command", [("rm", NAME), ("gc", "--quota", "0")])
async def test_what_the_agents_used_by_names_is_kept_by_commands_too(
    store: OverlayStore, tmp_path: Path, command: tuple[str, ...], has_root: bool
) -> None:
    (image,) = store.images()
    containers = tmp_path / "containers/overlay-containers"
    containers.mkdir(parents=True)
    (containers / "containers.json").write_text(json.dumps([{"id": "0123", "image": image.id}]))
    ramdisk = ("--ramdisk", str(tmp_path / "ramdisk")) if command[0] == "gc" else ()
    done = await imagedist(*command, *ramdisk, *(("--root", str(store.root)) if has_root else ()))
    assert ("container 0123" in done.stderr) == (command[0] == "rm")
    assert store.images() == [image]


async def test_a_socket_that_no_agent_listens_at_stops_no_command_with_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEDIST_SOCKET", str(tmp_path / "nobody.sock"))
    put(OverlayStore(tmp_path / "root", durability="none"), APP)
    told = await imagedist("rm", NAME, "--root", str(tmp_path / "root"), "--json")
    assert json.loads(told.output)["is_gone"] is True
    assert "no agent listens" in (await imagedist("images")).stderr
