"""A restore that finds nothing to restore: what a hurried operator reads."""

from __future__ import annotations

import asyncio
import sys

import pytest
from aiohttp import web

from imagedist.oci.digest import Digest
from imagedist.service import serving
from imagedist.site_sync import RestoreLine, RestorePlan
from tests.doctor.servers import HERE

LINE = RestoreLine(name="local/team/app", tag="1", digest=Digest.of(b""), action="here", blobs=0, bytes=0)


async def restore(found: tuple[RestoreLine, ...], *arguments: str) -> tuple[int | None, str, str]:
    """The exit code, what it printed, what it complained of."""

    async def plan(request: web.Request) -> web.Response:
        return web.json_response(text=RestorePlan(source="vault", lines=found).model_dump_json())

    seeder = web.Application()
    seeder.router.add_post("/site/v1/restores", plan)
    async with serving(seeder, HERE) as address:
        command = ["-m", "imagedist", "restore", "vault", "--seeder", f"http://{address}", *arguments]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, errors = await process.communicate()
        return process.returncode, output.decode(), errors.decode()


async def test_what_is_all_here_is_one_line() -> None:
    assert await restore((LINE,)) == (0, "1 of 1 tag of vault are here\n", "")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
async def test_a_repository_that_the_backup_does_not_have_is_no_success(more: tuple[str, ...]) -> None:
    status, output, errors = await restore((), "--repository", "local/tema/*", *more)
    assert (status, output) == (1, "")
    assert "vault has no tag of local/tema/*" in errors
