"""Killed at every file operation, the store opens again, counts right, keeps its quota, serves what is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError
from imagedist.oci.digest import Digest
from imagedist.store import inventory
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.writer import BlobWriter
from registry_proxy.pins import Pins
from tests.support.counts import count

CONTENT = b"layer" * 20_000
OTHER = b"other" * 20_000
DIGEST, OLD = Digest.of(CONTENT), Digest.of(OTHER)
QUOTA = 150_000

_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.store.test_kills import ACTS

root, left, act = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def count_down(event, arguments):
    global left
    if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.utime", "fcntl.flock", "fcntl.fcntl"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count_down)
asyncio.run(ACTS[act](root))
print("done", flush=True)
os._exit(0)
"""


async def send(writer: BlobWriter) -> None:
    await writer.begin(len(CONTENT))
    await writer.write(CONTENT[writer.offset : 50_000])
    await writer.write(CONTENT[max(writer.offset, 50_000) :])


async def send_wrong(writer: BlobWriter) -> None:
    await writer.begin(len(CONTENT))
    await writer.write(CONTENT[:-1] + b"!")


async def arrive(root: Path) -> None:
    """Commits a blob, which evicts the one that is there."""
    await (await Arrivals(BlobStore(root, QUOTA)).join(DIGEST, None, send)).wait()


async def arrive_wrong(root: Path) -> None:
    """Wrong bytes are dropped, into an empty store."""
    store = BlobStore(root, QUOTA)
    await store.remove(OLD)
    arrival = await Arrivals(store).join(DIGEST, None, send_wrong)
    try:
        await arrival.wait()
    except Exception:
        return
    raise AssertionError("wrong bytes were committed")


async def adopt(root: Path) -> None:
    """Links a file that lies beside."""
    source = root / "swarm" / DIGEST.hex
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(CONTENT)
    await BlobStore(root, QUOTA).adopt(source, DIGEST, len(CONTENT))


async def beside(root: Path) -> None:
    """Writes, replaces and removes files that lie beside blobs."""
    store = BlobStore(root, QUOTA)
    pins = Pins(root, store.ledger)
    pins.put("a", DIGEST, "operator", "")
    pins.put("a", DIGEST, "operator", "a longer reason")
    pins.drop("a", "operator")


ACTS = {"arrive": arrive, "arrive wrong": arrive_wrong, "adopt": adopt, "beside": beside}


def run(root: Path, step: int, act: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _KILLED, str(root), str(step), act]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def counted_files(root: Path) -> Iterator[Path]:
    """Without the stated sizes, which are gone in a moment."""
    for folder in ("blobs", "partial", "pins"):
        yield from (path for path in (root / folder).rglob("*") if path.is_file() and ".size" not in path.name)


def files_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in counted_files(root))


@pytest.mark.prove
@pytest.mark.parametrize("act", ACTS)
async def test_killed_at_any_step_the_store_is_whole_and_goes_on(tmp_path: Path, act: str) -> None:
    for step in range(0, 600, count(9, 1)):
        root = tmp_path / str(step)
        BlobStore(root).path(OLD).write_bytes(OTHER)

        done = await asyncio.to_thread(run, root, step, act)

        about = f"killed at step {step} of {act}"
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert files_bytes(root) <= QUOTA, about
        book = int((root / "usage").read_text().split()[0])
        assert book == 0 or book >= files_bytes(root) - len(OTHER), about  # the first count may not have been made
        for path in (root / "blobs" / "sha256").iterdir():
            assert Digest.of(path.read_bytes()).hex == path.name, about
        store = BlobStore(root, QUOTA)
        assert store.used_bytes == files_bytes(root), about
        if act == "arrive wrong":  # who goes on behind wrong bytes notices, and drops them
            with contextlib.suppress(IntegrityError):
                await (await Arrivals(store).join(DIGEST, None, send)).wait()
        await (await Arrivals(store).join(DIGEST, None, send)).wait()
        assert store.path(DIGEST).read_bytes() == CONTENT, about
        assert store.used_bytes == files_bytes(root) <= QUOTA, about
        inventory.take(root, time.time() + 2 * inventory.PARTIAL_KEPT_SECONDS)
        assert [path for path in root.rglob("*") if path.name.startswith(".")] == [], about
        assert list((root / "partial").iterdir()) == [], about
        if done.stdout:
            return
        store.close()
    pytest.fail("it never came to its end")


@pytest.mark.prove
async def test_killed_while_another_process_follows_it_hangs_nobody(tmp_path: Path) -> None:
    """The follower takes over behind the bytes that are there, whatever the killed process was doing."""
    for step in range(0, 400, count(10, 1)):
        root = tmp_path / str(step)
        BlobStore(root)
        killed = asyncio.create_task(asyncio.to_thread(run, root, step, "arrive"))
        store = BlobStore(root, QUOTA)
        arrivals = Arrivals(store)
        await (await arrivals.join(DIGEST, None, send)).wait()
        assert store.path(DIGEST).read_bytes() == CONTENT
        await arrivals.close()
        if (await killed).stdout:
            return
    pytest.fail("it never came to its end")
