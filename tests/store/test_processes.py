"""Several processes on one directory, some of them killed: one count, one quota, right bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from imagedist.errors import ImagedistError
from imagedist.oci.digest import Digest
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.writer import BlobWriter
from tests.support.counts import count

QUOTA = 400_000
PROCESSES = 3
STEP_BYTES = 8_000


def content(number: int) -> bytes:
    return random.Random(number).randbytes(20_000 + 3_000 * number)


async def pull(arrivals: Arrivals, store: BlobStore, number: int) -> None:
    """Reads a blob to its end, stored or passed on."""
    wanted = content(number)
    digest = Digest.of(wanted)

    async def send(writer: BlobWriter) -> None:
        await writer.begin(len(wanted))
        while writer.offset < len(wanted):
            await writer.write(wanted[writer.offset : writer.offset + STEP_BYTES])

    with contextlib.suppress(ImagedistError):  # evicted this moment, or its fetcher was killed: somebody asks again
        blob = await (await arrivals.join(digest, None, send)).open()
        got = b""
        while chunk := await blob.read(len(got), 1 << 20):
            got += chunk
        await blob.close()
        assert got == wanted


async def work(root: Path, seed: int, pulls: int) -> None:
    random_numbers = random.Random(seed)
    store = BlobStore(root, QUOTA)
    arrivals = Arrivals(store)
    for _ in range(pulls):
        await asyncio.gather(*(pull(arrivals, store, random_numbers.randrange(25)) for _ in range(3)))
    await arrivals.close()


def stored_bytes(root: Path) -> int:
    """Partial files first: one that is renamed meanwhile is seen twice."""
    sizes: dict[int, int] = {}
    for folder in ("partial", "blobs/sha256"):
        for entry in os.scandir(root / folder):
            if ".size" not in entry.name:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


@pytest.mark.prove
async def test_processes_that_come_and_go_keep_one_quota_and_one_right_count(tmp_path: Path) -> None:
    random_numbers = random.Random(20_181_020)
    script = "import asyncio, sys; from pathlib import Path; from tests.store.test_processes import work\n"
    script += "asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))"
    highest_bytes = 0
    BlobStore(tmp_path)

    async def run(seed: int, killed_after: float | None) -> int:
        command = [sys.executable, "-c", script, str(tmp_path), str(seed), str(count(10, 100))]
        process = await asyncio.create_subprocess_exec(*command)
        if killed_after is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(killed_after):
                    return await process.wait()
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        return await process.wait()

    async def watch() -> None:
        nonlocal highest_bytes
        while True:
            highest_bytes = max(highest_bytes, await asyncio.to_thread(stored_bytes, tmp_path))
            await asyncio.sleep(0.002)

    watching = asyncio.create_task(watch())
    for round_number in range(count(1, 8)):
        seeds = range(10 * round_number, 10 * round_number + PROCESSES)
        killed = run(seeds[0] + 5, random_numbers.uniform(0.5, 2))
        codes = await asyncio.gather(killed, *(run(seed, None) for seed in seeds))
        assert codes[1:] == [0] * PROCESSES
        assert codes[0] in (0, -signal.SIGKILL)
    watching.cancel()
    assert QUOTA // 2 < highest_bytes <= QUOTA
    used_bytes = int((tmp_path / "usage").read_text().split()[0])
    assert used_bytes >= stored_bytes(tmp_path)
    store = BlobStore(tmp_path, QUOTA)
    assert store.used_bytes == stored_bytes(tmp_path)
    for path in (tmp_path / "blobs" / "sha256").iterdir():
        assert Digest.of(path.read_bytes()).hex == path.name
