"""Many processes pull at once; each layer is unpacked by one of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from imagedist.overlay.store import Collected, OverlayStore
from tests.support import layers
from tests.support.counts import count
from tests.support.layers import directory, file
from tests.support.registry import FaultyRegistry

PULLS = count(4, 10)


async def pull(reference: str, root: Path, ramdisk: Path) -> list[dict[str, object]]:
    """One process; its events."""
    options = ("--plain-http", "--no-agent", "--json", "--workers", "1", "--platform", "linux/amd64")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "imagedist", "pull", reference, *options, "--root", str(root)),
        *("--ramdisk", str(ramdisk)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate()
    assert process.returncode == 0, complaint
    return [json.loads(line) for line in output.splitlines()]


def collect_until(over: threading.Event, root: Path) -> list[Collected]:
    """gc, again and again; all that it took."""
    collected = []
    while not over.wait(0.05):
        collected += OverlayStore(root).gc()
    return collected


@pytest.mark.prove
async def test_pulls_at_once_of_images_upon_one_base_unpack_each_layer_once_while_gc_runs(tmp_path: Path) -> None:
    base = [layers.tar([directory("d"), file("d/base", os.urandom(1 << 20))]), layers.tar([file("d/more", b"more")])]
    images = [layers.image([*base, [file(f"d/{number}", b"app")]], config={"n": number}) for number in range(PULLS)]
    async with FaultyRegistry() as registry:
        for number, built in enumerate(images):
            for content in built.blobs.values():
                registry.add_blob(content)
            registry.add_manifest("app", str(number), built.image.manifest_bytes)
        host = registry.url.removeprefix("http://")
        root, ramdisk = tmp_path / "root", tmp_path / "ramdisk"
        over = threading.Event()
        collecting = asyncio.create_task(asyncio.to_thread(collect_until, over, root))
        try:
            told = await asyncio.gather(*(pull(f"{host}/app:{number}", root, ramdisk) for number in range(PULLS)))
        finally:
            over.set()
        assert await collecting == []
        merged = Counter(event["layer"] for events in told for event in events if event["event"] == "merged")
        wanted = {layer.descriptor.digest for built in images for layer in built.image.layers}
        assert merged == Counter(map(str, wanted))
        assert {digest: registry.blob_gets[digest] for digest in wanted} == dict.fromkeys(wanted, 1)
    store = OverlayStore(root)
    assert len(store.images()) == PULLS
    for number in range(PULLS):
        assert set(store.tree(store.find(f"{host}/app:{number}"))) == {"d", "d/base", "d/more", f"d/{number}"}
