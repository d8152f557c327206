"""A benchmark that is stopped at any moment leaves its result so far, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.account import CgroupAccount, is_abandoned, own_cgroup
from bench.cli import app
from bench.directories import remove
from bench.places import place, remove_place
from bench.result import load
from imagedist.errors import ImagedistError, InputError
from tests.support.waiting import until


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from bench.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left(process: int, store: Path) -> list[str]:
    """Whatever of a benchmark is still there: directories, mounts, processes, cgroups."""
    mark = f"imagedist-bench-{process}-"
    found = [str(path) for path in Path("/dev/shm").glob(f"{mark}*")]
    with suppress(FileNotFoundError):  # it goes itself
        found += [str(store / name) for name in os.listdir(store)]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(store) in line]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [line] if mark in line else []
    cgroup = own_cgroup()
    return found + [str(path) for path in (cgroup.glob(f"{mark}*") if cgroup else ())]


def has_run(file: Path) -> bool:
    try:
        return any(row.runs for row in load(file).contestants)
    except ImagedistError:
        return False


@pytest.fixture
def store() -> Iterator[Path]:
    """In memory: a file system is made in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "stores"


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_stopped_benchmark_keeps_what_it_measured_and_leaves_nothing(
    number: signal.Signals, store: Path, tmp_path: Path
) -> None:
    file, cache = tmp_path / "result.json", tmp_path / "cache"
    places = ["--store", str(store), "--ext4", "200MB", "--cache", str(cache), "--json", str(file)]
    process = start(
        ["unpack", "--image", "random-2MB", "--contestants", "imagedist,serial", "--rounds", "100", *places]
    )
    await until(lambda: has_run(file) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    await until(lambda: left(process.pid, store) == [])
    result = load(file)
    assert result.partial
    assert [path.name for path in tmp_path.glob(".*")] == []
    if number == signal.SIGKILL:
        assert result.stopped == ""
    else:
        assert process.returncode == 130
        assert result.stopped == "interrupted"
        assert f"interrupted; what was measured before is in {file}" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unpack", "--image", "random-10000GB"], "random-10000GB needs"),
        (["unpack", "--image", "random-"], "no image 'random-'"),
        (["unpack", "--image", "small,layers=0"], "'layers=0' is not understood"),
        (["unpack", "--image", "small,zstd=99"], "bad level 99 for zstd"),
        (["unpack", "--image", "small", "--ext4", "1MB"], "too small"),
        (["unpack", "--json", "/nowhere/result.json"], "cannot write the result /nowhere/result.json"),
        (["unpack", "--contestants", "rkt"], "no contestant 'rkt'"),
        (["layers", "--cuts", "two"], "--cuts is 'two'"),
        (["layers", "--forms", "lzma"], "--forms 'lzma': expected pgzip, zstd"),
        (["pull", "--kraken", "localhost"], "--kraken 'localhost': expected a URL"),
        (["update", "--contestants", ""], "--contestants names nobody"),
        (["all", "--json", "-"], "--json of all is a file"),
        (["all", "--parts", "everything"], "--parts 'everything': expected swarm"),
        (["all", "--html", "/nowhere/report.html"], "cannot write the result /nowhere/report.html"),
        (["swarm", "--nodes", "0"], "--nodes is '0'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    places = {"swarm": [], "all": ["--cache", str(tmp_path)]}
    cache = ["--cache", str(tmp_path), "--store", str(tmp_path / "stores")]
    told = CliRunner().invoke(app, [*arguments, *places.get(arguments[0], cache)])
    assert told.exit_code == InputError.exit_code, told.output
    assert message in told.output
    assert list(tmp_path.iterdir()) == [], "nothing was built"


@pytest.mark.parametrize("command", ["all"])
def test_who_is_not_root_is_told_before_anything_starts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"), "--cache", str(tmp_path)]
    told = CliRunner().invoke(app, [command, "--quick", *files])
    assert (told.exit_code, "needs root" in told.output) == (InputError.exit_code, True)
    assert list(tmp_path.iterdir()) == []


def test_a_second_benchmark_does_not_take_the_first_ones_stores(tmp_path: Path) -> None:
    with place(tmp_path / "stores", None) as first:
        with pytest.raises(InputError, match="another benchmark measures in"), place(tmp_path / "stores", None):
            pass
        with first.fresh() as store:
            remove_place(tmp_path / "stores")
            assert store.is_dir()
    assert not (tmp_path / "stores").exists()


def test_what_a_user_has_where_stores_are_made_stays(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("store", "ext4", "ext4.image", "data")]
    for directory in kept:
        directory.mkdir()
    with place(tmp_path, None) as where, where.fresh() as store:
        (store / "blob").touch()
    remove_place(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_only_what_is_named_as_a_benchmarks_own_is_taken_for_abandoned() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert is_abandoned(f"imagedist-bench-{gone.pid}-k3_x9")
    assert not is_abandoned(f"imagedist-bench-{os.getpid()}-0")
    assert not any(map(is_abandoned, ("imagedist-bench-results", f"imagedist-bench-{gone.pid}", "imagedist-bench-")))


def test_a_process_of_another_pid_namespace_is_never_signalled(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("0\n")
    assert CgroupAccount(tmp_path).processes() == []


@pytest.mark.root
@pytest.mark.parametrize("name", ["real/store", "link/store"])
def test_nothing_is_removed_through_a_mount_however_the_directory_is_named(
    name: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = store.parent
    outside, inside = above / "outside", above / "real" / "store" / "mount"
    for directory in (outside, inside):
        directory.mkdir(parents=True)
    (outside / "kept").touch()
    (above / "link").symlink_to(above / "real")
    subprocess.run(["mount", "--bind", outside, inside], check=True)
    monkeypatch.chdir(above)
    remove(Path(name))
    assert not (above / "real" / "store").exists()
    assert (outside / "kept").exists()
