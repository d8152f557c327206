"""The unpack engine's defaults: what they find out about the machine."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import pytest

from imagedist import memory
from imagedist.config import StorageTable, UnpackTable
from imagedist.engine import StoragePlan, UnpackPlan, affordable_bytes, agent_workers, is_tmpfs, opened, started_workers


def test_a_ramdisk_is_told_from_a_disk() -> None:
    assert is_tmpfs(Path("/dev/shm/not/there/yet"))
    assert not is_tmpfs(Path("/proc"))


def test_an_agent_unpacks_with_two_workers_at_least() -> None:
    assert agent_workers() >= 2


def test_a_ramdisk_that_is_none_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if is_tmpfs(tmp_path):
        pytest.skip("this machine's temporary files are in memory")
    unpack = UnpackTable.model_validate({"ramdisk": tmp_path / "ramdisk", "workers": 1, "nice": 0})
    storage = StorageTable(root=tmp_path / "storage", used_by=())
    with caplog.at_level(logging.WARNING), started_workers(unpack) as workers, opened(storage, unpack, workers):
        pass
    assert "is not on a tmpfs" in caplog.text


def test_a_budget_beyond_the_cgroups_memory_is_lowered_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proc = machine(tmp_path, limit_bytes=1 << 30)
    unpack = UnpackTable.model_validate({"ramdisk": tmp_path, "ramdisk_budget": "4GiB"})
    assert affordable_bytes(unpack, proc) == (1 << 30) - memory.RESERVE_BYTES
    assert "raise MemoryMax= or lower the budget" in caplog.text


def test_a_cgroup_with_hardly_any_memory_stages_on_disk(tmp_path: Path) -> None:
    proc = machine(tmp_path, limit_bytes=100 << 20)
    assert affordable_bytes(UnpackTable(), proc) == 0


def test_a_command_unpacks_and_stores_as_a_configuration_that_says_nothing(tmp_path: Path) -> None:
    plan, table = UnpackPlan(ramdisk=tmp_path), UnpackTable.model_validate({"ramdisk": tmp_path, "nice": 0})
    assert asdict(plan) == dict(table)
    assert asdict(StoragePlan(root=tmp_path)) == dict(StorageTable(root=tmp_path))


def test_half_of_the_machines_available_memory_is_the_most(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    proc = machine(tmp_path, limit_bytes=8 << 30, available_bytes=2 << 30)
    assert affordable_bytes(UnpackTable(), proc) == 1 << 30
    assert caplog.text == ""


def machine(directory: Path, limit_bytes: int, available_bytes: int = 64 << 30) -> Path:
    """A /proc whose process has a memory limit."""
    (directory / "self").mkdir()
    (directory / "self" / "cgroup").write_text("0::/\n")
    (directory / "self" / "mountinfo").write_text(f"1 0 0:1 / {directory} rw - cgroup2 cgroup2 rw\n")
    (directory / "memory.max").write_text(f"{limit_bytes}\n")
    (directory / "meminfo").write_text(f"MemAvailable: {available_bytes >> 10} kB\n")
    return directory
