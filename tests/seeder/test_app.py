"""The whole seeder: real sessions meet through its tracker, and a killed process comes back seeding."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imagedist.config import Address, SeederConfig
from imagedist.service import serving
from imagedist.swarm.libtorrent_session import LibtorrentSession
from seeder.app import create_app
from tests.seeder.test_seeds import commit
from tests.support.ports import free_port
from tests.support.postgres import site_database
from tests.swarm.blobs import Blob, make_blob, make_directory


def configuration(tmp_path: Path, *, token_file: Path | None = None, **settings: Any) -> SeederConfig:
    table = {
        "site": "test",
        "listen": f"127.0.0.1:{free_port()}",
        "bittorrent": f"127.0.0.1:{free_port()}",
        "site_blobs": tmp_path / "site",
        "database": site_database(tmp_path),
        "site_token_file": token_file,
        **settings,
    }
    return SeederConfig.model_validate({"seeder": table})


@asynccontextmanager
async def running(config: SeederConfig) -> AsyncIterator[str]:
    async with serving(create_app(config), config.seeder.listen) as address:
        yield f"http://{address}"


@asynccontextmanager
async def node(host: str, tracker: str, blob: Blob, directory: Path) -> AsyncIterator[LibtorrentSession]:
    session = await LibtorrentSession.open(Address(host, 0))
    try:
        await session.add(blob.torrent, make_directory(directory), trackers=[f"{tracker}/announce"])
        yield session
    finally:
        await session.close()


async def ready(client: aiohttp.ClientSession, url: str) -> None:
    """Asks until the seeder says that it is ready; the test's own timeout is the bound."""
    while True:
        try:
            async with client.get(f"{url}/readyz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.05)


async def test_two_nodes_find_the_seeder_and_each_other_by_the_tracker(tmp_path: Path) -> None:
    blob = make_blob(tmp_path / "site" / "blobs" / "sha256", 20 << 20)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(configuration(tmp_path)))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        seed_url = f"{url}/site/v1/seeds/{blob.digest}"
        async with client.put(seed_url, data=blob.torrent) as response:
            assert response.status == 204
        sessions = [
            await stack.enter_async_context(node(host, url, blob, tmp_path / host))
            for host in ("127.0.0.2", "127.0.0.3")
        ]
        transfers = [transfer for session in sessions for transfer in session.transfers()]
        await asyncio.gather(*(transfer.wait_complete() for transfer in transfers))
        for transfer, session in zip(transfers, sessions, strict=True):
            assert (tmp_path / session.address.host / blob.digest.hex).read_bytes() == blob.content
            assert sum(transfer.status().received_bytes.values()) == len(blob.content)
        assert sum(transfer.status().received_bytes["seeder"] for transfer in transfers) >= len(blob.content)
        async with client.delete(seed_url) as response:
            assert response.status == 204
        async with client.get(f"{url}/site/v1/seeds") as response:
            assert (await response.json())["seeds"] == []


async def test_a_killed_seeder_comes_back_seeding(tmp_path: Path) -> None:
    blob = commit(tmp_path / "site")
    settings = configuration(tmp_path).seeder
    (tmp_path / "seeder.toml").write_text(
        f'[seeder]\nsite = "test"\nlisten = "{settings.listen}"\nbittorrent = "{settings.bittorrent}"\n'
        f'site_blobs = "{settings.site_blobs}"\ndatabase = "{settings.database}"\n'
    )
    url = f"http://{settings.listen}"
    tag = {"digest": str(blob.digest)}

    async def start() -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "seeder", "--config", str(tmp_path / "seeder.toml")]
        return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)

    async with aiohttp.ClientSession() as client:
        process = await start()
        try:
            await ready(client, url)
            async with client.put(f"{url}/site/v1/tags/team/app:v1", json=tag) as response:
                assert response.status == 200
            process.kill()
            await process.wait()
            process = await start()
            await ready(client, url)
            async with client.get(f"{url}/site/v1/tags") as response:
                (told,) = (await response.json())["tags"]
                assert {"sequence": 1, "name": "team/app", "tag": "v1", **tag}.items() <= told.items()
            async with node("127.0.0.2", url, blob, tmp_path / "node") as session:
                transfer = session.get(blob.digest)
                assert transfer
                await transfer.wait_complete()
                assert transfer.status().received_bytes["seeder"] == len(blob.content)
            process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


NAMES_IMAGES = ("nodes", "preheats", "preheats/x", "suggested-preheats", "syncs", "syncs/plan", "tags")


async def test_what_changes_or_names_images_needs_the_site_token_and_the_rest_does_not(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "siblings").write_text("sibling\n")
    settings = {"siblings_token_file": tmp_path / "siblings"}
    config = configuration(tmp_path, token_file=tmp_path / "token", **settings)
    async with running(config) as url, aiohttp.ClientSession() as client:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer secret"}, 204),
        ):
            async with client.put(f"{url}/site/v1/nodes/n1", json={}, headers=headers) as response:
                assert response.status == status
        for path in ("seeds", "sites", "limits"):
            async with client.get(f"{url}/site/v1/{path}") as response:
                assert response.status == 200, path
        for path in NAMES_IMAGES:
            for token, is_refused in (("", True), ("secret", False), ("sibling", path not in ("tags", "syncs"))):
                headers = {"Authorization": f"Bearer {token}"}
                async with client.get(f"{url}/site/v1/{path}", headers=headers) as response:
                    assert (response.status == 401) == is_refused, (path, token)
        sibling = {"Authorization": "Bearer sibling"}
        async with client.put(f"{url}/site/v1/tags/team/app:1", headers=sibling, json={}) as response:
            assert response.status == 401


@pytest.mark.parametrize("settings", [{}, {"open_reads": True}], ids=["without a token", "opened"])
async def test_without_a_site_token_or_when_opened_everybody_reads(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "token").write_text("secret\n")
    token_file = tmp_path / "token" if settings else None
    config = configuration(tmp_path, token_file=token_file, **settings)
    async with running(config) as url, aiohttp.ClientSession() as client:
        for path in NAMES_IMAGES:
            async with client.get(f"{url}/site/v1/{path}") as response:
                assert response.status != 401, path


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "seeds/sha256:zz", b"", 400),
        ("PUT", f"seeds/sha512:{'a' * 128}", b"", 400),
        ("PUT", f"seeds/sha256:{'a' * 64}", b"garbage", 422),
        ("PUT", f"seeds/sha256:{'a' * 64}", bytes((8 << 20) + 1), 413),
        ("DELETE", f"seeds/sha256:{'a' * 64}", b"", 204),
        ("PUT", "tags/team/app:v1", b"{}", 400),
        ("PUT", "tags/team/app:v1", b'{"digest": 5}', 400),
        ("PUT", "tags/Team/app:v1", b'{"digest": "sha256:' + b"a" * 64 + b'"}', 400),
        ("GET", "tags?since=x", b"", 400),
        ("PUT", "nodes/n1", b"[", 400),
        ("PUT", "nodes/n1", b'{"labels": {"a": 1}}', 400),
        ("POST", "nodes/n1", b"{}", 405),
        ("GET", "nothing", b"", 404),
    ],
)
async def test_bad_input_is_answered_in_one_readable_line(
    tmp_path: Path, method: str, path: str, body: bytes, status: int
) -> None:
    async with running(configuration(tmp_path)) as url, aiohttp.ClientSession() as client:
        async with client.request(method, f"{url}/site/v1/{path}", data=io.BytesIO(body)) as response:
            assert response.status == status
            if status >= 400:
                error = (await response.json())["error"]
                assert error["code"]
                assert "\n" not in error["message"]


async def test_the_command_shows_and_changes_what_the_sites_host_may_send(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    async with running(configuration(tmp_path, token_file=tmp_path / "token")) as url:

        async def limit(*arguments: str) -> tuple[int | None, str]:
            command = [sys.executable, "-m", "imagedist", "limit", "--seeder", url]
            command += ["--token-file", str(tmp_path / "token"), *arguments]
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            told, _ = await process.communicate()
            return process.returncode, told.decode()

        changed = await limit("--egress", "3MB/s", "--json")
        assert json.loads(changed[1])["egress"]["bytes_per_second"] == 3_000_000
        assert "3.0 MB/s" in (await limit())[1]
        assert "none" in (await limit("--reset"))[1]
        code, told = await limit("--download", "1MB/s")
        assert (code, "a site has --egress and --upload" in told) == (2, True)
        assert (await limit("--egress", "fast"))[0] == 2


def execute(database: Path, statement: str) -> None:
    """In a thread: the seeder of the same event loop may hold the lock, and goes on meanwhile."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute(statement)


async def test_a_database_that_cannot_be_written_is_what_readyz_and_refusals_say(tmp_path: Path) -> None:
    config = configuration(tmp_path, database=f"sqlite:///{tmp_path}/seeder.db", takeover_after="300ms")
    async with running(config) as url, aiohttp.ClientSession() as client, asyncio.timeout(60):
        await ready(client, url)
        full = "CREATE TRIGGER full BEFORE INSERT ON leases BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        await asyncio.to_thread(execute, tmp_path / "seeder.db", full)
        while True:
            async with client.get(f"{url}/readyz") as response:
                said = await response.text()
            if response.status == 503 and "disk is full" in said:  # a lease that ran out on a busy machine says less
                break
            await asyncio.sleep(0.05)
        assert said.startswith("nobody leads the site: the seeder's database failed")
        async with client.get(f"{url}/site/v1/nodes") as response:
            assert (response.status, "disk is full" in await response.text()) == (503, True)
        await asyncio.to_thread(execute, tmp_path / "seeder.db", "DROP TRIGGER full")
        await ready(client, url)
