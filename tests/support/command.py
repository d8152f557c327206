"""``imagedist`` as a process, beside a site that runs in this one."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import NamedTuple

_SECONDS = 60.0


class Done(NamedTuple):
    exit_code: int
    output: str
    complaint: str


async def imagedist(*words: object) -> Done:
    """Runs a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "imagedist", *map(str, words)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "IMAGEDIST_SOCKET": ""},
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, output.decode(), complaint.decode())
