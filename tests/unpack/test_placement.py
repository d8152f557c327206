from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imagedist.config import UnpackTable
from imagedist.engine import started_workers
from imagedist.errors import StorageError
from imagedist.unpack.placement import Cgroup, Placement, remove_cgroup
from tests.support import layers

_SHOW = """
import ctypes, os, platform, sys
from imagedist.unpack.placement import Placement
Placement.parse(sys.argv[1]).apply_to_process()
number = {"x86_64": 252, "aarch64": 31}[platform.machine()]  # ioprio_get
io_class = ctypes.CDLL(None).syscall(number, 1, 0) >> 13
print(sorted(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0), io_class)
print([line for line in open("/proc/self/cgroup") if line.startswith("0::")][0].strip())
"""


def shown(placement: Placement) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _SHOW, placement.to_argument()], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "placement",
    [
        Placement(),
        Placement(frozenset([0, 3]), 5, "idle", Path("/sys/fs/cgroup/a b")),
        Placement(io_class="best-effort"),
    ],
)
def test_placement_travels_on_a_command_line(placement: Placement) -> None:
    assert Placement.parse(placement.to_argument()) == placement


def test_process_gets_cpus_niceness_and_io_class() -> None:
    last = max(os.sched_getaffinity(0))
    assert shown(Placement(frozenset([last]), 7, "idle"))[0] == f"[{last}] {os.nice(0) + 7} 3"
    assert shown(Placement(io_class="best-effort"))[0].endswith(" 2")


def test_cpus_that_the_machine_has_not_are_a_clear_error() -> None:
    with pytest.raises(StorageError, match="place unpacking on CPUs 100000"):
        Placement(frozenset([100_000])).apply_to_thread()


def test_trying_a_placement_changes_nothing_here_and_tells_a_bad_one() -> None:
    before = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    Placement(frozenset([max(before[0])]), 3, "idle").check()
    assert (os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)) == before
    with pytest.raises(StorageError, match="place unpacking"):
        Placement(frozenset([100_000])).check()


def test_decoding_threads_get_the_cpus_but_not_the_niceness() -> None:
    last = max(os.sched_getaffinity(0))

    def seen() -> tuple[set[int], int]:
        Placement(frozenset([last]), 5, "idle").confine_thread()
        return os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(seen).result() == ({last}, os.getpriority(os.PRIO_PROCESS, 0))


@pytest.fixture
def hierarchy(tmp_path: Path) -> Path:
    """What a cgroup v2 mount with controllers looks like, of ordinary files."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "slice" / "unpack").mkdir(parents=True)
    (tmp_path / "slice" / "unpack" / "cgroup.procs").touch()
    return tmp_path


def test_limits_are_written_and_controllers_enabled_from_the_mount_down(hierarchy: Path) -> None:
    directory = Cgroup("slice/unpack", cpu_max=1.5, memory_max_bytes=1 << 30).prepare(hierarchy)
    assert directory == hierarchy / "slice/unpack"
    assert (directory / "cpu.max").read_text() == "150000 100000"
    assert (directory / "memory.max").read_text() == "1073741824"
    assert [(path / "cgroup.subtree_control").exists() for path in (hierarchy, directory.parent, directory)] == [
        True,
        True,
        False,
    ]


def test_without_limits_no_controller_is_asked_for(hierarchy: Path) -> None:
    (hierarchy / "cgroup.controllers").write_text("\n")
    directory = Cgroup("slice/unpack").prepare(hierarchy)
    assert sorted(path.name for path in directory.iterdir()) == ["cgroup.procs"]
    assert not (hierarchy / "cgroup.subtree_control").exists()


def test_missing_controller_says_what_to_do(hierarchy: Path) -> None:
    (hierarchy / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(StorageError, match=r"no memory controller .* set no cpu_max and memory_max"):
        Cgroup("slice/unpack", memory_max_bytes=1 << 30).prepare(hierarchy)


def test_directory_that_is_no_cgroup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="use cgroup x"):
        Cgroup("x").prepare(tmp_path)


@pytest.mark.root
def test_workers_of_a_configuration_run_in_its_cgroup_which_goes_with_them(cgroup: Path, tmp_path: Path) -> None:
    table = UnpackTable.model_validate({"workers": 2, "nice": 3, "io_class": "idle", "cgroup": f"{cgroup.name}/unpack"})
    tar = tmp_path / "tar"
    tar.write_bytes(layers.tar([layers.file("f")]))
    (tmp_path / "layer").mkdir()
    with started_workers(table) as workers:
        workers.extract_file(tar, tmp_path / "layer").result()
        processes = (cgroup / "unpack" / "cgroup.procs").read_text().split()
        while len(processes) < 2:  # the other one is still starting
            processes = (cgroup / "unpack" / "cgroup.procs").read_text().split()
        assert [os.getpriority(os.PRIO_PROCESS, int(process)) for process in processes] == [os.nice(0) + 3] * 2
    assert not (cgroup / "unpack").exists()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    try:
        directory = Cgroup(f"imagedist-test-{uuid.uuid4().hex}").prepare()
    except StorageError as error:
        pytest.skip(f"no cgroup v2 to write to: {error}")
    yield directory
    remove_cgroup(directory)
    assert not directory.exists()


@pytest.mark.root
def test_a_cgroup_that_an_administrator_made_stays(cgroup: Path) -> None:
    made = cgroup / "by-hand"
    made.mkdir()
    remove_cgroup(Cgroup(f"{cgroup.name}/by-hand").prepare())
    assert made.exists()
    made.rmdir()


@pytest.mark.root
def test_process_joins_a_real_cgroup_which_is_removed_when_nobody_uses_it(cgroup: Path) -> None:
    assert shown(Placement(cgroup=cgroup))[1] == f"0::/{cgroup.name}"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as used:
        (cgroup / "cgroup.procs").write_text(str(used.pid))
        remove_cgroup(cgroup)
        assert cgroup.exists()
