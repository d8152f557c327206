"""The memory a process may fill, read from /proc and the cgroup files, v1, v2 and both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imagedist import memory

V2 = "31 23 0:28 / {top}/unified rw - cgroup2 cgroup2 rw"
V1 = "35 31 0:32 {root} {top}/memory rw - cgroup cgroup rw,memory"
OTHER = "33 31 0:30 / {top}/cpu rw - cgroup cgroup rw,cpu"
GIB = 1 << 30


class Machine:
    def __init__(self, directory: Path, cgroup: str, mounts: list[str], root: str = "/") -> None:
        self.proc = directory / "proc"
        self.top = directory / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "cgroup").write_text(cgroup)
        text = "\n".join(line.format(top=self.top, root=root) for line in mounts)
        (self.proc / "self" / "mountinfo").write_text(text + "\n")

    def limit(self, path: str, text: str | int) -> None:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def test_the_lowest_limit_from_our_cgroup_upwards_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/system.slice/imagedist.service\n", [V2])
    machine.limit("unified/system.slice/memory.max", 2 * GIB)
    machine.limit("unified/system.slice/imagedist.service/memory.max", 3 * GIB)
    assert memory.limit_bytes(machine.proc) == 2 * GIB


def test_big_buffers_that_were_freed_are_used_again() -> None:
    count = """if True:
        import resource, sys
        from imagedist import memory
        if sys.argv[1] == "keep":
            memory.keep_freed()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(100):
            [b"x" * (1 << 20) for _ in range(3)]
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", count, word], capture_output=True, text=True, check=True).stdout)
        for word in ("keep", "give")
    )
    assert kept < 2_000 < 10_000 < given_back


def test_max_is_no_limit(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/a\n", [V2])
    machine.limit("unified/a/memory.max", "max")
    assert memory.limit_bytes(machine.proc) is None


def test_version_1_and_hybrid_mounts_are_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "4:memory:/user/x\n1:cpu:/elsewhere\n0::/\n", [OTHER, V1, V2])
    machine.limit("memory/user/x/memory.limit_in_bytes", GIB)
    machine.limit("memory/memory.limit_in_bytes", 0x7FFFFFFFFFFFF000)
    assert memory.limit_bytes(machine.proc) == GIB


def test_a_container_sees_its_own_cgroup_as_the_root_of_the_mount(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "4:memory:/docker/abc\n", [V1], root="/docker/abc")
    machine.limit("memory/memory.limit_in_bytes", GIB)
    assert memory.limit_bytes(machine.proc) == GIB


def test_a_path_from_outside_of_the_mount_means_the_mount(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "4:memory:/kubepods/pod1\n", [V1], root="/docker/abc")
    machine.limit("memory/memory.limit_in_bytes", GIB)
    assert memory.limit_bytes(machine.proc) == GIB


def test_what_is_available_is_read_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:    1024 kB\n")
    assert memory.available_bytes(tmp_path) == 1 << 20


@pytest.mark.parametrize("read", [memory.available_bytes, lambda: memory.limit_bytes() or 1])
def test_this_machine_can_be_read(read: object) -> None:
    assert callable(read)
    assert read() > 0
