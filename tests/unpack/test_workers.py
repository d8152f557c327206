from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.errors import StorageError, UnacceptableError
from imagedist.unpack.ramdisk import Ramdisk
from imagedist.unpack.stage import LayerStage
from imagedist.unpack.workers import Extracting, Workers
from tests.support import layers
from tests.support.children import children, wait_for_children
from tests.support.engine import GatedWorkers
from tests.support.waiting import wait_until


@pytest.fixture
def ramdisk(tmp_path: Path) -> Iterator[Ramdisk]:
    ramdisk = Ramdisk(tmp_path / "ramdisk", 64 << 20, tmp_path / "spill")
    yield ramdisk
    ramdisk.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(2)
    yield workers
    workers.close()


def extracting(workers: Workers, ramdisk: Ramdisk, members: list[layers.Member], directory: Path) -> Extracting:
    layer, blob = layers.layer(layers.tar(members))
    stage = LayerStage(ramdisk, layer)
    made = workers.begin(stage.path, fresh(directory), stage.consumed)
    stage.hand_to(made)
    stage.feed(blob)
    stage.finish()
    return made


def fresh(path: Path) -> Path:
    path.mkdir()
    return path


def test_layers_are_extracted_side_by_side(ramdisk: Ramdisk, workers: Workers, tmp_path: Path) -> None:
    begun = [
        extracting(workers, ramdisk, [layers.file("f", b"%d" % number)], tmp_path / str(number)) for number in range(5)
    ]
    extracted = [one.result.result() for one in begun]
    assert [(one.directory / "diff/f").read_bytes() for one in extracted] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("compression", ["indexed gzip", "zstd"])
@pytest.mark.parametrize("budget_bytes", [1 << 20, 3 << 20, 64 << 20])
def test_layer_arrives_whole_through_a_ring_of_any_size(tmp_path: Path, compression: str, budget_bytes: int) -> None:
    """Files far smaller and larger than the ring, made by both workers; then one that takes another's place."""
    content = random.Random(1).randbytes(5 << 20)
    members = [layers.file(f"d{size % 7}/f{size}", content[: size * 997]) for size in (*range(120), 5000, 1100, 4000)]
    members += [layers.file("twice", b"1"), layers.file("more", content[-(4 << 20) :]), layers.file("twice", b"2")]
    layer, blob = layers.layer(layers.tar(members), compression)
    ramdisk = Ramdisk(tmp_path / "ramdisk", budget_bytes, tmp_path / "spill", wait_seconds=0)
    workers = Workers(2)
    stage = LayerStage(ramdisk, layer, workers.limits, workers.spare)
    made = workers.begin(stage.path, fresh(tmp_path / "layer"), stage.consumed)
    stage.hand_to(made)
    for start in range(0, len(blob), 300_000):
        stage.feed(blob[start : start + 300_000])
    stage.finish()
    diff = made.result.result().directory / "diff"
    for path, expected in {member.name: member.content for member in members}.items():
        assert (diff / path).read_bytes() == expected
    stage.close()
    assert ramdisk.reserved_bytes() == 0
    workers.close()
    ramdisk.close()


def test_layer_is_cancelled_while_its_decoder_waits_for_the_reader(ramdisk: Ramdisk, tmp_path: Path) -> None:
    layer, blob = layers.layer(layers.tar([layers.file("big", bytes(30 << 20))]), "none")
    workers = GatedWorkers(1)
    stage = LayerStage(ramdisk, layer)
    made = workers.begin(stage.path, fresh(tmp_path / "layer"), stage.consumed)
    stage.hand_to(made)
    feeding = threading.Thread(target=stage.feed, args=(blob,))
    feeding.start()
    workers.reached.wait()
    made.cancel()
    workers.gate.set()
    feeding.join()
    with pytest.raises(StorageError, match="cancelled"):
        made.result.result()
    stage.close()
    assert ramdisk.reserved_bytes() == 0
    workers.close()


def test_unacceptable_layer_is_told_by_the_future(ramdisk: Ramdisk, workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(UnacceptableError, match="names nothing"):
        extracting(workers, ramdisk, [layers.file(".wh.")], tmp_path / "layer").result.result()


def test_killed_worker_fails_its_task_only(ramdisk: Ramdisk, tmp_path: Path) -> None:
    others = children(os.getpid())
    workers = Workers(1)
    tar = tmp_path / "tar"
    tar.write_bytes(layers.tar([layers.file("f")]))
    assert workers.extract_file(tar, fresh(tmp_path / "before")).result().tar_bytes > 0
    (child,) = wait_for_children(1, besides=others)
    os.kill(child, signal.SIGSTOP)  # or it might have done everything before it is killed
    stuck = workers.extract_file(tar, fresh(tmp_path / "stuck"))
    os.kill(child, signal.SIGKILL)
    with pytest.raises(StorageError, match="try again"):
        stuck.result()
    after = extracting(workers, ramdisk, [layers.file("f")], tmp_path / "after")
    assert (after.result.result().directory / "diff/f").exists()
    workers.close()


def test_ctrl_c_does_not_reach_a_worker_not_even_one_that_is_starting() -> None:
    others = set(children(os.getpid()))
    workers = Workers(1)
    while not (started := set(children(os.getpid())) - others):
        os.sched_yield()  # as early as can be
    blocked = next(line for line in Path(f"/proc/{started.pop()}/status").read_text().splitlines() if "SigBlk" in line)
    assert int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1
    workers.close()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_closed_workers_take_no_task(tmp_path: Path) -> None:
    workers = Workers(1)
    workers.close()
    workers.close()
    with pytest.raises(StorageError, match="closed"):
        workers.extract_file(tmp_path / "x", tmp_path)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from imagedist.unpack.placement import Placement\n"
        "from imagedist.unpack.workers import Workers\n"
        "workers = Workers(2, Placement(cpus=frozenset([0]), nice=5))\n"
        "[workers.extract_file(Path(sys.argv[1]), Path(directory)).result() for directory in sys.argv[2:]]\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    tar = tmp_path / "tar"
    tar.write_bytes(layers.tar([layers.file("f")]))
    directories = [str(fresh(tmp_path / name)) for name in ("a", "b")]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tar), *directories], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            started = wait_for_children(2, parent.pid)  # one may have done both tasks before the other was there
            descriptors = [os.pidfd_open(child) for child in started]
            assert len(descriptors) == 2
            niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
            wait_until(lambda: all(os.sched_getaffinity(child) == {0} for child in started), "both are on their CPU")
            wait_until(lambda: all(os.getpriority(os.PRIO_PROCESS, child) == niceness for child in started), "are nice")
        finally:
            parent.kill()
    for descriptor in descriptors:
        # A pidfd is readable when its process has ended; the test's own timeout bounds the wait.
        with os.fdopen(descriptor) as ended:
            select.select([ended], [], [])


def test_layer_that_grows_and_ends_while_its_worker_is_asked_is_extracted_whole(tmp_path: Path) -> None:
    members = [layers.file("first", b"1" * (1 << 20)), layers.file("last", b"2")]
    content = layers.tar(members)
    tar = tmp_path / "tar"
    tar.write_bytes(content)
    workers = GatedWorkers(1)
    made = workers.begin(tar, fresh(tmp_path / "layer"))
    first_bytes = content.index(b"last")  # the tar may end here, as far as one can see
    made.advance(first_bytes, len(content))
    workers.reached.wait()
    made.advance(len(content), len(content), is_whole=True)
    workers.gate.set()
    extracted = made.result.result()
    assert (extracted.directory / "diff/last").read_bytes() == b"2"
    assert extracted.tar_bytes == len(content)
    workers.close()


def test_layer_fails_and_the_workers_go_on_when_its_pages_cannot_be_given_back(tmp_path: Path) -> None:
    def consumed(position: int) -> None:
        raise StorageError("no room for a lock")

    tar = tmp_path / "tar"
    tar.write_bytes(layers.tar([layers.file("f", b"1" * 5000), layers.file("g")]))
    workers = Workers(1)
    made = workers.begin(tar, fresh(tmp_path / "a"), consumed)
    made.advance(8192, 1 << 20)
    made.hurry()
    with pytest.raises(StorageError, match="no room for a lock"):
        made.result.result()
    extracted = workers.extract_file(tar, fresh(tmp_path / "b")).result()
    assert (extracted.directory / "diff/f").stat().st_size == 5000
    workers.close()
