"""Services as processes of their own, started, signalled and read by tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.children import children

ROOT = Path(__file__).parents[2]


class Program:
    """A running program and what it has said so far, on both outputs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hear(self, text: str, seconds: float = 60.0, times: int = 1) -> str:
        """Reads on until the text was said so often; returns all that was said so far."""
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            while self.said.count(text) < times:
                line = await self._process.stdout.readline()
                assert line, f"it ended without saying {text!r}:\n{self.said}"
                self.said += line.decode()
        return self.said

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            self.said += (await self._process.stdout.read()).decode()
            return await self._process.wait()


@asynccontextmanager
async def running(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> AsyncIterator[Program]:
    """Killed at the end, with its children, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})},
        cwd=ROOT,
        pass_fds=pass_fds,
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            for child in children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await program.end()
