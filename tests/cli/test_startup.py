"""What a command imports, since that is what its start takes: a pull by the agent does without every big library."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from imagedist.overlay.store import OverlayStore
from tests.support import layers
from tests.support.registry import FaultyRegistry

BIG = {
    *("asyncio", "aiohttp", "httpx", "pydantic", "pydantic_core", "rich", "ssl", "email", "http"),
    *("libtorrent", "sqlalchemy", "prometheus_client", "isal", "fastcrc", "zstandard", "pgzip", "multiprocessing"),
}
_LINE = re.compile(r"import time: +[0-9]+ \| +[0-9]+ \| +(\S+)")


def imported(importtime: str) -> set[str]:
    """Top-level names of what ``-X importtime`` lists."""
    return {name.partition(".")[0] for name in _LINE.findall(importtime)}


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("pull", "--help"), ("images", "--root", "{}"), ("images", "--help")]
)
def test_a_small_command_imports_no_big_library(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    OverlayStore(tmp_path / "root")
    words = [word.format(tmp_path / "root") for word in arguments]
    command = [sys.executable, "-X", "importtime", "-m", "imagedist", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert imported(done.stderr) & BIG == set()


def test_the_proxys_help_and_complaints_are_plain_text() -> None:
    for arguments, code in (("--help", 0), ("--confg=x", 2)):
        command = [sys.executable, "-m", "registry_proxy", arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "imagedist-proxy [OPTIONS]" in done.stdout + done.stderr
        assert (done.stdout + done.stderr).isascii()


def test_a_worker_imports_only_the_standard_library_and_what_it_writes_with() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import imagedist.unpack.worker"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert imported(done.stderr) & BIG <= {"isal", "fastcrc"}


async def test_a_pull_by_this_process_imports_neither_aiohttp_nor_schemas(tmp_path: Path) -> None:
    built = layers.image([[layers.file("f", b"x")]])
    async with FaultyRegistry() as registry:
        for content in built.blobs.values():
            registry.add_blob(content)
        registry.add_manifest("app", "1", built.image.manifest_bytes)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "importtime", "-m", "imagedist", "pull", "--no-agent", "--plain-http", "--json"),
            *(f"{registry.url.removeprefix('http://')}/app:1", "--root", str(tmp_path / "root")),
            *("--ramdisk", str(tmp_path / "ramdisk"), "--workers", "1"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, complaint = await process.communicate()
    assert process.returncode == 0, complaint
    assert b'"event": "done"' in output
    unneeded = BIG - {"asyncio", "ssl", "email", "http", "isal", "fastcrc", "zstandard"}
    assert imported(complaint.decode()) & unneeded == set()


DONE = b'{"event":"done","reference":"app","image":"0123456789abcdef","seconds":0.1,"bytes":7,"warp":9}\n'
REFUSED = b'{"event":"error","message":"no such image","exit_code":2}\n'


class Ended(NamedTuple):
    code: int | None
    output: str
    complaint: str
    imported: set[str]


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[tuple[Path, list[bytes]]]:
    """An agent of another version: its socket, and what it was sent. It has only the image ``app``."""
    orders: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if head := await reader.read(1 << 16):  # the first look only connects
            orders.append(head)
            writer.write(
                b'HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nWarp: 9\r\n\r\n{"event":"beamed"}\n'
            )
            writer.write(DONE if b"library/app:" in head else REFUSED)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "agent.sock"):
        yield tmp_path / "agent.sock", orders


async def imagedist(*words: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "imagedist", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate()
    lines = [line for line in complaint.decode().splitlines() if not line.startswith("import time:")]
    return Ended(process.returncode, output.decode(), "\n".join(lines), imported(complaint.decode()))


async def test_a_pull_by_an_agent_of_another_version_imports_no_big_library(agent: tuple[Path, list[bytes]]) -> None:
    socket, orders = agent
    ended = await imagedist("pull", "app", "--socket", str(socket))
    assert (ended.code, ended.output) == (0, "app  0123456789ab  7 bytes in 0.10 s\n")
    assert ended.imported & (BIG | {"typer", "logging"}) == set()
    assert orders[0].endswith(b'{"format": 1, "reference": "docker.io/library/app:latest"}')


@pytest.mark.parametrize("words", [["app"], ["app", "--json"], ["nope"], ["nope", "--json"], ["Not/a/Reference"]])
async def test_a_pull_by_the_agent_does_the_same_whoever_reads_its_words(
    agent: tuple[Path, list[bytes]], words: list[str]
) -> None:
    socket, orders = agent
    short = await imagedist("pull", *words, "--socket", str(socket))
    long = await imagedist("pull", *words, f"--socket={socket}")
    assert ("typer" in short.imported, "typer" in long.imported) == (False, True)
    assert short[:3] == long[:3]
    assert orders[::2] == orders[1::2]


@pytest.mark.parametrize("words", [[], ["app", "other"], ["app", "--socket"], ["app", "--jsn"], ["app", "--root"]])
async def test_a_pull_that_is_not_so_simple_is_explained_by_typer(words: list[str]) -> None:
    ended = await imagedist("pull", *words)
    assert ended.code == 2
    assert ended.complaint.endswith("--help`")
    assert "typer" in ended.imported
