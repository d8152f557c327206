"""The unpack engine's defaults: what they find out about the machine."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from imagedist.config import StorageTable, UnpackTable
from imagedist.engine import agent_workers, is_tmpfs, opened


def test_a_ramdisk_is_told_from_a_disk() -> None:
    assert is_tmpfs(Path("/dev/shm/not/there/yet"))
    assert not is_tmpfs(Path("/proc"))


def test_an_agent_unpacks_with_two_workers_at_least() -> None:
    assert agent_workers() >= 2


def test_a_ramdisk_that_is_none_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if is_tmpfs(tmp_path):
        pytest.skip("this machine's temporary files are in memory")
    unpack = UnpackTable.model_validate({"ramdisk": tmp_path / "ramdisk", "workers": 1, "nice": 0})
    with caplog.at_level(logging.WARNING), opened(StorageTable(root=tmp_path / "storage", used_by=()), unpack):
        pass
    assert "is not on a tmpfs" in caplog.text
