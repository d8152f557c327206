from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from imagedist.errors import IntegrityError, StorageError, UnacceptableError
from imagedist.oci.digest import Digest
from imagedist.oci.image import Layer
from imagedist.unpack.limits import Limits
from imagedist.unpack.ramdisk import Ramdisk
from imagedist.unpack.stage import LayerStage
from imagedist.unpack.window import UNLIMITED, StagedTar, Window
from tests.support import layers
from tests.support.dead import DEAD

TAR = layers.tar([layers.file(f"f{number}", bytes([number]) * 70_000) for number in range(40)])


@pytest.fixture
def ramdisk(tmp_path: Path) -> Iterator[Ramdisk]:
    ramdisk = Ramdisk(tmp_path / "ramdisk", 64 << 20, tmp_path / "spill", wait_seconds=0)
    yield ramdisk
    assert ramdisk.reserved_bytes() == 0
    ramdisk.close()
    assert [path.name for path in (tmp_path / "ramdisk").iterdir()] == [".lock"]
    assert [path.name for path in (tmp_path / "spill").iterdir()] == [".lock"]


def feed(stage: LayerStage, blob: bytes) -> None:
    for start in range(0, len(blob), 50_000):
        stage.feed(blob[start : start + 50_000])


@pytest.mark.parametrize("compression", ["none", "gzip", "indexed gzip", "zstd"])
def test_staged_tar_is_the_uncompressed_layer(ramdisk: Ramdisk, compression: str) -> None:
    layer, blob = layers.layer(TAR, compression)
    stage = LayerStage(ramdisk, layer)
    feed(stage, blob)
    stage.finish()
    assert stage.path.read_bytes() == TAR
    assert (stage.tar_bytes, stage.is_on_ramdisk) == (len(TAR), True)
    stage.close()
    stage.close()


@pytest.mark.parametrize("compression", ["none", "gzip", "indexed gzip", "zstd"])
def test_each_part_of_the_work_is_told_once(ramdisk: Ramdisk, compression: str) -> None:
    layer, blob = layers.layer(TAR, compression)
    busy = dict.fromkeys(("inflate", "hash", "stage"), 0.0)

    def spent(name: str, seconds: float) -> None:
        assert seconds >= 0
        busy[name] += seconds

    began = time.monotonic()
    stage = LayerStage(ramdisk, layer, spent=spent)
    feed(stage, blob)
    stage.finish()
    assert 0 < sum(busy.values()) <= time.monotonic() - began
    assert all(busy.values())
    stage.close()


def wide(window_log: int) -> tuple[Layer, bytes]:
    """A layer whose frame claims such a window."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    blob = compressor.compress(TAR) + compressor.flush()
    layer, _ = layers.layer(TAR, "zstd")
    return replace(layer, descriptor=replace(layer.descriptor, digest=Digest.of(blob), size_bytes=len(blob))), blob


def test_wide_zstd_windows_come_out_of_the_budget_until_their_layers_are_decoded(ramdisk: Ramdisk) -> None:
    layer, blob = wide(25)
    first, second, third = (LayerStage(ramdisk, layer) for _ in range(3))
    for stage in (first, second):
        stage.feed(blob[:100])
    assert 2 * (24 << 20) <= ramdisk.reserved_bytes() < 3 * (24 << 20)
    with pytest.raises(StorageError, match=r"needs 33554432 bytes to be decoded .*raise .*ramdisk_budget"):
        third.feed(blob)
    first.feed(blob[100:])
    first.finish()
    again = LayerStage(ramdisk, layer)
    again.feed(blob)
    again.finish()
    assert again.path.read_bytes() == TAR
    for stage in (first, second, third, again):
        stage.close()


@pytest.mark.parametrize(("window_log", "budget_bytes"), [(23, 64 << 20), (27, 64 << 20), (27, 0)])
def test_usual_windows_and_those_that_no_budget_could_hold_are_not_charged(
    tmp_path: Path, window_log: int, budget_bytes: int
) -> None:
    layer, blob = wide(window_log)
    with closing(Ramdisk(tmp_path / "ramdisk", budget_bytes, tmp_path / "spill", wait_seconds=0)) as ramdisk:
        stage = LayerStage(ramdisk, layer)
        stage.feed(blob[:20])
        assert ramdisk.reserved_bytes() == 0
        stage.feed(blob[20:])
        stage.finish()
        stage.close()


def test_blob_that_ends_early_is_dropped(ramdisk: Ramdisk) -> None:
    layer, blob = layers.layer(TAR)
    stage = LayerStage(ramdisk, layer)
    feed(stage, blob[:-1])
    with pytest.raises(IntegrityError, match="ended after"):
        stage.finish()
    stage.close()
    with pytest.raises(StorageError, match="aborted"):
        stage.feed(b"more")


def test_blob_longer_than_its_manifest_says_is_dropped(ramdisk: Ramdisk) -> None:
    layer, blob = layers.layer(TAR)
    stage = LayerStage(ramdisk, layer)
    feed(stage, blob)
    with pytest.raises(IntegrityError, match="longer than"):
        stage.feed(b"x")
    stage.close()


def test_wrong_blob_digest_is_an_integrity_error(ramdisk: Ramdisk) -> None:
    layer, blob = layers.layer(TAR, "none")
    stage = LayerStage(ramdisk, layer)
    feed(stage, bytes([blob[0] ^ 1]) + blob[1:])
    with pytest.raises(IntegrityError, match="wrong bytes"):
        stage.finish()
    stage.close()


def test_what_the_source_has_verified_is_not_hashed_again_but_its_diff_id_is_checked(ramdisk: Ramdisk) -> None:
    layer, blob = layers.layer(TAR, "none")
    other = replace(layer.descriptor, digest=Digest.of(b"other"))
    stage = LayerStage(ramdisk, Layer(other, layer.diff_id, layer.chain_id), is_verified=True)
    feed(stage, blob)
    stage.finish()
    stage.close()
    stage = LayerStage(ramdisk, layer, is_verified=True)
    feed(stage, bytes([blob[0] ^ 1]) + blob[1:])
    with pytest.raises(IntegrityError, match="diff ID"):
        stage.finish()
    stage.close()


def test_wrong_diff_id_is_an_integrity_error(ramdisk: Ramdisk) -> None:
    layer, blob = layers.layer(TAR)
    stage = LayerStage(ramdisk, Layer(layer.descriptor, Digest.of(b"other"), layer.chain_id))
    feed(stage, blob)
    with pytest.raises(IntegrityError, match="diff ID"):
        stage.finish()
    stage.close()


def test_bomb_is_refused_at_the_limit(ramdisk: Ramdisk) -> None:
    layer, blob = layers.layer(bytes(20 << 20))
    stage = LayerStage(ramdisk, layer, Limits(layer_bytes=5 << 20))
    with pytest.raises(UnacceptableError, match="more than 5242880 bytes"):
        feed(stage, blob)
    stage.close()


@pytest.mark.parametrize("budget_bytes", [0, 1, 300_000, 1 << 20])
def test_layer_larger_than_the_budget_is_spilled_to_disk(tmp_path: Path, budget_bytes: int) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", budget_bytes, tmp_path / "spill", wait_seconds=0)
    layer, blob = layers.layer(TAR)
    stage = LayerStage(ramdisk, layer)
    feed(stage, blob)
    assert ramdisk.reserved_bytes() == 0
    stage.finish()
    assert not stage.is_on_ramdisk
    assert (tmp_path / "spill") in stage.path.parents
    assert stage.path.read_bytes() == TAR
    stage.close()
    ramdisk.close()


def test_budget_is_never_exceeded_by_layers_side_by_side(tmp_path: Path) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", len(TAR) + (1 << 20), tmp_path / "spill", wait_seconds=0)
    layer, blob = layers.layer(TAR)
    stages = [LayerStage(ramdisk, layer) for _ in range(3)]
    for start in range(0, len(blob), 1000):
        for stage in stages:
            stage.feed(blob[start : start + 1000])
        assert ramdisk.reserved_bytes() <= ramdisk.budget_bytes
    for stage in stages:
        stage.finish()
    assert {stage.path.read_bytes() for stage in stages} == {TAR}
    assert sum(stage.tar_bytes for stage in stages if stage.is_on_ramdisk) <= ramdisk.budget_bytes
    for stage in stages:
        stage.close()
    ramdisk.close()


class Consumer:
    """A ``stage.Reader`` that consumes what it is told of when somebody waits for it."""

    def __init__(self, stage: LayerStage, *, is_slow: bool = False) -> None:
        self._stage = stage
        self._is_slow = is_slow
        self._available_bytes = 0
        self.read = b""
        self.moves: list[StagedTar] = []
        self.has_failed = False
        self.wants_whole = False
        self.is_whole = False

    def advance(self, available_bytes: int, expected_bytes: int, *, is_whole: bool = False) -> None:
        self._available_bytes, self.is_whole = available_bytes, is_whole
        if is_whole:
            self.hurry(is_last=True)

    def hurry(self, *, is_last: bool = False) -> None:
        if self._is_slow and not is_last:
            return
        with closing(Window(self.moves[-1], memoryview(bytearray(1000)))) as window:
            window.extend(self._available_bytes, is_whole=False)
            self.read += window[len(self.read) : self._available_bytes]
        self._stage.consumed(len(self.read))

    @property
    def is_starved(self) -> bool:
        return self._is_slow

    def move(self, tar: StagedTar) -> None:
        self.moves.append(tar)


class Starved(Consumer):
    """Can do nothing before so many bytes are there."""

    def __init__(self, stage: LayerStage, wanted_bytes: int) -> None:
        super().__init__(stage)
        self._wanted_bytes = wanted_bytes

    def hurry(self, *, is_last: bool = False) -> None:
        if is_last or self._available_bytes > self._wanted_bytes:
            super().hurry(is_last=is_last)

    @property
    def is_starved(self) -> bool:
        return True


def test_layer_larger_than_the_budget_stays_in_the_ramdisk_while_it_is_consumed(tmp_path: Path) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", len(TAR) // 3, tmp_path / "spill", wait_seconds=5)
    layer, blob = layers.layer(TAR, "none")
    stage = LayerStage(ramdisk, layer)
    consumer = Consumer(stage)
    stage.hand_to(consumer)
    feed(stage, blob)
    stage.finish()
    assert (consumer.read, len(consumer.moves), consumer.is_whole) == (TAR, 1, True)
    assert stage.is_on_ramdisk
    assert stage.path.stat().st_blocks * 512 <= ramdisk.budget_bytes  # its pages were used again
    stage.close()
    assert ramdisk.reserved_bytes() == 0
    ramdisk.close()


def test_layer_much_larger_than_its_ring_uses_the_same_pages_again(ramdisk: Ramdisk) -> None:
    tar = layers.tar([layers.file("big", random.Random(1).randbytes(20 << 20))])
    layer, blob = layers.layer(tar, "none")
    stage = LayerStage(ramdisk, layer)
    consumer = Consumer(stage)
    stage.hand_to(consumer)
    feed(stage, blob)
    stage.finish()
    assert consumer.read == tar
    assert [tar.ring_bytes for tar in consumer.moves] == [2 << 20]
    assert stage.path.stat().st_size == ramdisk.reserved_bytes() == 2 << 20
    stage.close()


def test_ring_closes_early_where_another_process_has_the_rest_of_the_budget(tmp_path: Path) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", 64 << 20, tmp_path / "spill", wait_seconds=1e6)
    other = Ramdisk(tmp_path / "ramdisk", 64 << 20, tmp_path / "spill")
    assert other.reserve((64 << 20) - 1_500_000)
    layer, blob = layers.layer(TAR, "none")
    stage = LayerStage(ramdisk, layer)
    consumer = Consumer(stage)
    stage.hand_to(consumer)
    feed(stage, blob)
    stage.finish()
    assert consumer.read == TAR
    assert stage.is_on_ramdisk
    assert 1 << 20 <= consumer.moves[-1].ring_bytes == stage.path.stat().st_size <= 1_500_000
    stage.close()
    assert ramdisk.reserved_bytes() == (64 << 20) - 1_500_000
    ramdisk.close()
    other.close()


def test_ring_grows_for_a_reader_that_can_do_nothing_with_so_little(ramdisk: Ramdisk) -> None:
    tar = layers.tar([layers.file("big", random.Random(1).randbytes(30 << 20))])
    layer, blob = layers.layer(tar, "none")
    stage = LayerStage(ramdisk, layer)
    consumer = Starved(stage, 7 << 20)
    stage.hand_to(consumer)
    feed(stage, blob)
    stage.finish()
    assert consumer.read == tar
    assert [tar.ring_bytes for tar in consumer.moves] == [2 << 20, 4 << 20, 8 << 20]
    assert stage.is_on_ramdisk
    assert len({tar.path for tar in consumer.moves}) == 1
    stage.close()


def test_layer_that_nobody_consumes_goes_to_disk_and_on(tmp_path: Path) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", len(TAR) // 3, tmp_path / "spill", wait_seconds=0)
    layer, blob = layers.layer(TAR)
    stage = LayerStage(ramdisk, layer)
    consumer = Consumer(stage, is_slow=True)
    stage.hand_to(consumer)
    feed(stage, blob)
    stage.finish()
    assert (consumer.read, consumer.moves[-1].ring_bytes, stage.is_on_ramdisk) == (TAR, UNLIMITED, False)
    assert ramdisk.reserved_bytes() == 0
    stage.close()
    ramdisk.close()


def test_reader_that_wants_the_whole_gets_it(ramdisk: Ramdisk) -> None:
    tar = layers.tar([layers.file("big", bytes(40 << 20))])
    layer, blob = layers.layer(tar, "none")
    stage = LayerStage(ramdisk, layer)
    consumer = Consumer(stage, is_slow=True)
    consumer.wants_whole = True
    stage.hand_to(consumer)
    for start in range(0, len(blob), 1 << 20):
        stage.feed(blob[start : start + (1 << 20)])
    stage.finish()
    assert consumer.read == tar
    stage.close()


def test_blame_is_settled_by_the_digest_when_the_reader_failed(ramdisk: Ramdisk) -> None:
    layer, blob = layers.layer(TAR, "none")
    for content, error in ((blob, None), (bytes([blob[0] ^ 1]) + blob[1:], IntegrityError)):
        stage = LayerStage(ramdisk, layer)
        consumer = Consumer(stage)
        consumer.has_failed = True
        stage.hand_to(consumer)
        feed(stage, content)
        with pytest.raises(error) if error else nullcontext():
            stage.finish()
        stage.close()


def test_released_budget_wakes_a_waiting_layer(tmp_path: Path) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", 1000, tmp_path / "spill", wait_seconds=30)
    assert ramdisk.reserve(1000)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(ramdisk.reserve(600)))
    waiting.start()
    ramdisk.release(1000)
    waiting.join()
    assert answers == [True]
    ramdisk.close()


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    one = Ramdisk(tmp_path / "ramdisk", 1000, tmp_path / "spill", wait_seconds=0)
    other = Ramdisk(tmp_path / "ramdisk", 1000, tmp_path / "spill", wait_seconds=0)
    assert one.reserve(700)
    assert not other.reserve(400)
    assert other.reserve(300)
    one.close()
    assert other.reserve(700)
    other.close()


def test_budget_of_a_process_that_died_meanwhile_is_taken_back(tmp_path: Path) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", 1000, tmp_path / "spill", wait_seconds=0)
    dead = tmp_path / "ramdisk" / DEAD
    dead.mkdir()
    dead.with_suffix(".lock").write_bytes(b"900")
    assert ramdisk.reserve(1000)
    assert not dead.exists()
    ramdisk.close()


def test_opening_removes_what_a_dead_process_left(tmp_path: Path) -> None:
    dead = tmp_path / "ramdisk" / DEAD
    dead.mkdir(parents=True)
    (dead / "staged").write_bytes(b"x")
    dead.with_suffix(".lock").write_bytes(b"5000")
    ramdisk = Ramdisk(tmp_path / "ramdisk", 1000, tmp_path / "spill", wait_seconds=0)
    assert not dead.exists()
    assert ramdisk.reserve(1000)
    ramdisk.close()


def test_decoder_that_waits_for_the_ramdisk_gives_up_when_its_reader_fails(tmp_path: Path) -> None:
    class Failing(Consumer):
        def hurry(self, *, is_last: bool = False) -> None:
            self.has_failed = True

    ramdisk = Ramdisk(tmp_path / "ramdisk", len(TAR) // 3, tmp_path / "spill", wait_seconds=1e6)
    layer, blob = layers.layer(TAR, "none")
    stage = LayerStage(ramdisk, layer)
    stage.hand_to(Failing(stage))
    feed(stage, blob)
    stage.finish()
    assert stage.is_on_ramdisk
    assert stage.path.stat().st_blocks * 512 <= ramdisk.budget_bytes
    stage.close()
    assert ramdisk.reserved_bytes() == 0
    ramdisk.close()


def test_stage_that_is_closed_does_not_wait_for_the_ramdisk(tmp_path: Path) -> None:
    ramdisk = Ramdisk(tmp_path / "ramdisk", 1 << 20, tmp_path / "spill", wait_seconds=1e6)
    other = Ramdisk(tmp_path / "ramdisk", 1 << 20, tmp_path / "spill")
    assert other.reserve(1 << 20)
    layer, blob = layers.layer(TAR, "none")
    stage = LayerStage(ramdisk, layer)
    with ThreadPoolExecutor(1) as threads:
        feeding = threads.submit(stage.feed, blob)
        stage.close()
        with pytest.raises(StorageError, match="aborted"):
            feeding.result()
    other.close()
    assert ramdisk.reserved_bytes() == 0
    ramdisk.close()


@pytest.mark.root
@pytest.mark.parametrize("room_mib", [1, 3])
def test_layer_goes_to_disk_when_others_fill_the_ramdisk_under_its_ring(tmp_path: Path, room_mib: int) -> None:
    """In the first lap of a ring of 2 MiB, and when it would have to grow."""
    directory = tmp_path / "ramdisk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room_mib}m", "tmpfs", directory], check=True)
    try:
        ramdisk = Ramdisk(directory, 64 << 20, tmp_path / "spill", wait_seconds=0)
        layer, blob = layers.layer(layers.tar([layers.file("big", random.Random(1).randbytes(9 << 20))]), "none")
        stage = LayerStage(ramdisk, layer)
        consumer = Starved(stage, 5 << 20)
        stage.hand_to(consumer)
        feed(stage, blob)
        stage.finish()
        assert (consumer.read, consumer.moves[-1].ring_bytes, stage.is_on_ramdisk) == (blob, UNLIMITED, False)
        assert ramdisk.reserved_bytes() == 0
        stage.close()
        ramdisk.close()
    finally:
        subprocess.run(["umount", directory], check=True)
