"""Each benchmark, stopped at any moment: nothing of it is left, and its result so far is a valid one that says so."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench.result import load
from tests.bench.room import Room, room
from tests.support.counts import count
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.prove, pytest.mark.timeout(count(120, 1800))]

_TINY = ("--image", "random-2MB", "--quick")
_EXT4 = ("--ext4", "200MB")
COMMANDS = {
    "limit": _TINY,
    "unpack": (*_TINY, *_EXT4),
    "pull": _TINY,
    "layers": _TINY,
    "update": _TINY,
    "memory": _TINY,
    "runtimes": _TINY,
    "decoders": _TINY,
    "swarm": ("--quick",),
    "neighbour": ("--quick",),
    "lone": ("--quick",),
    "many": ("--quick",),
    "transfer": ("--quick",),
    "caps": ("--quick",),
    "sites": ("--quick",),
    "scaleout": ("--quick",),
    "proxy": ("--quick",),
    "tracker": ("--quick",),
    "crowd": ("--quick",),
    "simulate": ("--quick",),
    "all": (*_TINY, *_EXT4, "--parts", "limit,pull,layers,update,runtimes,swarm,simulate,proxy,sites"),
}
REDUCED = "limit"
"""What every day's tests stop, once: it needs no peers."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
CACHED = {name for name, options in COMMANDS.items() if "--image" in options} | {"neighbour", "scaleout"}
"""Commands with images that are kept between benchmarks."""
KILLS = count(1, 6)
LONGEST_SECONDS = 45
_START_SECONDS = 0.3
"""Python's own start, in which Ctrl-C is told in its own words."""
SEED = 20_261_127


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == REDUCED else pytest.mark.e2e) for name in COMMANDS]
    if count(0, 1)
    else [REDUCED],
)
def test_a_benchmark_stopped_at_a_random_moment_leaves_its_result_so_far_and_nothing_else(
    name: str, cache: Path, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} {name}")
    for number in range(KILLS):
        moment = count(2, 0) or 0.1 * (10 * LONGEST_SECONDS) ** chance.random()  # early ones as often as late ones
        directory = tmp_path / str(number)
        directory.mkdir()
        with room() as alone:
            stop(alone, name, cache, directory, SIGNALS[number % len(SIGNALS)], moment)


def stop(alone: Room, name: str, cache: Path, directory: Path, sent: signal.Signals, moment: float) -> None:
    file = directory / "results" / "result.json"
    file.parent.mkdir()
    options = ["--cache", str(cache)] if name in CACHED else []
    options += ["--html", str(file.with_name("report.html"))] if name == "all" else []
    command = [sys.executable, "-m", "bench", name, *COMMANDS[name]]
    process = alone.start([*command, *options, "--json", str(file)], directory)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    is_over = process.poll() is not None
    alone.look()
    with suppress(ProcessLookupError):
        if sent == signal.SIGINT:  # Ctrl-C reaches all of the terminal's programs
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
    process.wait(60)
    about = f"{name}, {sent.name} after {moment:.1f} s"
    try:
        wait_until(lambda: alone.left(process.pid) == [], about)
    except TimeoutError:
        pytest.fail(f"{about}, left: {alone.left(process.pid)}\n{(directory / 'said').read_text()[-2000:]}")
    said = (directory / "said").read_text()
    assert "Traceback" not in said or moment < _START_SECONDS, f"{about}: {said}"
    assert [path.name for path in file.parent.glob(".*")] == [], about
    result = load(file) if file.exists() else None
    if result is not None:
        runs = {len(row.runs) for row in result.contestants if row.not_run is None}
        assert result.partial or len(runs) <= 1, about  # it may have ended just before
        assert result.stopped == "" or sent != signal.SIGKILL, about
    assert not is_over or process.returncode == 0, f"{about}: {said}"
