"""The heart: a reference becomes a root filesystem, or nothing at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError
from imagedist.oci.bulk import Consume
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.progress import Event
from imagedist.puller import Puller, Strategy
from imagedist.unpack.workers import Extracting
from tests.support import layers
from tests.support.engine import BuiltSource, GatedWorkers, engine

REFERENCE = Reference.parse("registry.example/app:1")
BUILT = layers.image(
    [
        [layers.directory("etc"), layers.file("etc/a", b"a" * 5000), layers.file("etc/b", b"b")],
        [layers.directory("etc"), layers.whiteout("etc/b"), layers.file("etc/c", b"c")],
        [layers.file("top", b"t" * 3000)],
    ]
)
PLATFORM = Platform(os="linux", architecture="amd64")


@pytest.mark.parametrize("strategy", ["parallel", "staged", "serial"])
async def test_pulled_image_has_the_tree_of_its_layers_merged_in_order(tmp_path: Path, strategy: Strategy) -> None:
    events: list[Event] = []
    with engine(tmp_path) as made:
        puller = Puller(BuiltSource(BUILT), made.store, made.ramdisk, made.workers, strategy=strategy)
        await puller.pull(REFERENCE, PLATFORM, events.append)
        puller.close()
        tree = made.store.tree(made.store.find("registry.example/app:1"))
    assert sorted(tree) == ["etc", "etc/a", "etc/c", "top"]
    merged = [event.layer for event in events if event.event == "merged"]
    assert merged == [layer.descriptor.digest for layer in BUILT.image.layers]
    assert [event.event for event in events][-1] == "done"


@pytest.mark.parametrize("fault", ["wrong", "cut"])
async def test_nothing_is_stored_when_a_layer_is_not_what_its_digest_says(tmp_path: Path, fault: str) -> None:
    bad = BUILT.image.layers[2].descriptor.digest
    source = BuiltSource(BUILT, wrong=bad if fault == "wrong" else None, cut=bad if fault == "cut" else None)
    with engine(tmp_path) as made:
        puller = Puller(source, made.store, made.ramdisk, made.workers)
        with pytest.raises(IntegrityError, match=str(bad)):
            await puller.pull(REFERENCE, PLATFORM)
        puller.close()
        assert made.store.images() == []
        assert list((tmp_path / "storage" / "imagedist" / "building").glob("*/*")) == []


async def test_a_second_pull_fetches_nothing(tmp_path: Path) -> None:
    source = BuiltSource(BUILT)
    with engine(tmp_path) as made:
        puller = Puller(source, made.store, made.ramdisk, made.workers)
        await puller.pull(REFERENCE, PLATFORM)
        first = list(source.asked)
        await puller.pull(REFERENCE, PLATFORM)
        puller.close()
    assert len(first) == 3
    assert source.asked == first


async def test_ten_pulls_at_once_unpack_each_layer_once(tmp_path: Path) -> None:
    source = BuiltSource(BUILT)
    with engine(tmp_path) as made:
        puller = Puller(source, made.store, made.ramdisk, made.workers)
        await asyncio.gather(*(puller.pull(REFERENCE, PLATFORM) for _ in range(10)))
        puller.close()
    assert len(source.asked) == 3


async def test_a_layer_larger_than_the_ramdisk_budget_is_staged_on_disk(tmp_path: Path) -> None:
    built = layers.image([[layers.file("big", bytes(3 << 20))], [layers.file("small", b"s")]])
    with engine(tmp_path, budget_bytes=1 << 20) as made:
        puller = Puller(BuiltSource(built), made.store, made.ramdisk, made.workers)
        await puller.pull(REFERENCE, PLATFORM)
        puller.close()
        tree = made.store.tree(made.store.find("registry.example/app:1"))
    assert tree["big"].size_bytes == 3 << 20


async def test_a_cancelled_pull_leaves_no_staged_tar_and_no_private_directory(tmp_path: Path) -> None:
    started = asyncio.Event()

    class Endless(BuiltSource):
        async def chunks(self, reference, descriptor):  # type: ignore[no-untyped-def, override]  # a generator that hangs
            yield b"\x1f\x8b\x08"
            started.set()
            await asyncio.Event().wait()

    with engine(tmp_path) as made:
        puller = Puller(Endless(BUILT), made.store, made.ramdisk, made.workers)
        pulling = asyncio.create_task(puller.pull(REFERENCE, PLATFORM))
        await started.wait()
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        puller.close()
        staged = [path for path in (tmp_path / "ramdisk").rglob("*") if path.is_file() and path.stat().st_size > 100]
        assert staged == []
        assert list((tmp_path / "storage" / "imagedist" / "building").glob("*/*")) == []


async def test_every_body_is_closed_by_the_time_a_pull_has_failed(tmp_path: Path) -> None:
    is_open: set[str] = set()

    class Watching(BuiltSource):
        async def chunks(self, reference, descriptor):  # type: ignore[no-untyped-def, override]  # a generator that tells
            is_open.add(str(descriptor.digest))
            try:
                async for chunk in super().chunks(reference, descriptor):
                    yield chunk
            finally:
                try:
                    await asyncio.sleep(0)
                finally:  # a cancellation may come right here
                    is_open.remove(str(descriptor.digest))

    with engine(tmp_path) as made:
        puller = Puller(
            Watching(BUILT, wrong=BUILT.image.layers[0].descriptor.digest), made.store, made.ramdisk, made.workers
        )
        with pytest.raises(IntegrityError):
            await puller.pull(REFERENCE, PLATFORM)
        assert is_open == set()
        puller.close()


async def test_a_layer_that_has_arrived_is_merged_while_others_hold_every_decoder(tmp_path: Path) -> None:
    first, merged = BUILT.image.layers[0].descriptor.digest, threading.Event()

    class Holding(BuiltSource):
        async def deliver(
            self, reference: Reference, descriptor: Descriptor, consume: Consume, threads: Executor
        ) -> None:
            await super().deliver(reference, descriptor, consume, threads)
            if descriptor.digest == first:
                for _ in range(64):
                    threads.submit(merged.wait)

    def observe(event: Event) -> None:
        if event.event == "merged":
            merged.set()

    with engine(tmp_path) as made:
        puller = Puller(Holding(BUILT), made.store, made.ramdisk, made.workers)
        await puller.pull(REFERENCE, PLATFORM, observe)
        puller.close()


class Watched(GatedWorkers):
    """Tells what was begun."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.begun: list[Extracting] = []

    def begin(self, tar_path: Path, directory: Path, consumed: Callable[[int], None] = lambda _: None) -> Extracting:
        self.begun.append(super().begin(tar_path, directory, consumed))
        return self.begun[-1]


@pytest.mark.parametrize("strategy", ["parallel", "staged", "serial"])
async def test_a_cancelled_pull_does_not_wait_until_its_layers_are_extracted(
    tmp_path: Path, strategy: Strategy
) -> None:
    workers = Watched(1)
    built = layers.image([[layers.file("f", b"f" * 5000)]])
    with engine(tmp_path) as made:
        puller = Puller(BuiltSource(built), made.store, made.ramdisk, workers, strategy=strategy)
        pulling = asyncio.create_task(puller.pull(REFERENCE, PLATFORM))
        while not workers.begun:  # noqa: ASYNC110  # nobody tells when
            await asyncio.sleep(0.001)
        for _ in range(50):
            await asyncio.sleep(0.001)  # all but the extraction is done; if not, it is cancelled in another place
        pulling.cancel()
        while not workers.begun[0].has_failed:  # noqa: ASYNC110  # nobody tells when
            await asyncio.sleep(0.001)
        workers.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        puller.close()
        workers.close()
        assert made.ramdisk.reserved_bytes() == 0
