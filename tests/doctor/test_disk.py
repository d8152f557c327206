"""Room, inodes, quotas, the ramdisk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagedist.config import AgentConfig
from imagedist.doctor import disk, ramdisk
from imagedist.doctor.disk import LITTLE_BYTES, room

Statvfs = Callable[[Path], os.statvfs_result]
_BLOCK = 4096


def full(free_bytes: int = 1 << 40, free_inodes: int = 1 << 20, inodes: int = 1 << 21, flags: int = 0) -> Statvfs:
    blocks = free_bytes // _BLOCK
    fields = (_BLOCK, _BLOCK, 1 << 30, blocks, blocks, inodes, free_inodes, free_inodes, flags, 255)
    return lambda path: os.statvfs_result(fields)


def test_a_disk_with_room_is_fine(tmp_path: Path) -> None:
    (found,) = room("image store", tmp_path / "not/yet/made", full())
    assert (found.severity, found.code) == ("ok", "disk-space")


@pytest.mark.parametrize(("free_bytes", "severity"), [(LITTLE_BYTES - _BLOCK, "warn"), (1 << 20, "bad")])
def test_a_disk_with_little_room_is_named(tmp_path: Path, free_bytes: int, severity: str) -> None:
    (found,) = room("blob cache", tmp_path, full(free_bytes))
    assert (found.severity, found.code) == (severity, "disk-space")
    assert str(tmp_path) in found.what
    assert found.fix.startswith('a lower node_blobs_quota in agent.toml, such as "2048GiB"')
    (images,) = room("image store", tmp_path, full(free_bytes))
    assert images.fix.startswith("imagedist gc --quota 2048GiB")


def test_a_cache_of_blobs_that_every_user_can_read_is_named_with_the_command_that_mends_it() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # which every user can reach, unlike pytest's own
        home, blobs = Path(directory), Path(directory, "blobs")
        home.chmod(0o755)
        assert disk.open_to_others(blobs) == []  # not made yet
        blobs.mkdir()
        blobs.chmod(0o755)
        (found,) = disk.open_to_others(blobs)
        assert (found.code, found.fix) == ("blobs-open", f"chmod 750 {blobs}")
        blobs.chmod(0o750)
        assert disk.open_to_others(blobs) == []
        blobs.chmod(0o755)
        home.chmod(0o700)  # nobody gets there
        assert disk.open_to_others(blobs) == []


@pytest.mark.parametrize(("free", "severity"), [(50_000, "warn"), (10, "bad")])
def test_a_disk_without_inodes_is_full_with_room_left(tmp_path: Path, free: int, severity: str) -> None:
    _, found = room("image store", tmp_path, full(free_inodes=free))
    assert (found.severity, found.code) == (severity, "disk-inodes")


def test_a_file_system_that_counts_no_inodes_has_enough(tmp_path: Path) -> None:
    assert len(room("image store", tmp_path, full(free_inodes=0, inodes=0))) == 1


def test_a_read_only_file_system_is_a_problem_whoever_asks(tmp_path: Path) -> None:
    (found,) = room("image store", tmp_path, full(flags=os.ST_RDONLY))
    assert (found.severity, found.code) == ("bad", "disk-read-only")
    assert "remount,rw" in found.fix


def test_a_disk_that_cannot_be_asked_is_not_checked(tmp_path: Path) -> None:
    def fail(path: Path) -> os.statvfs_result:
        raise OSError(5, "Input/output error")

    (found,) = room("image store", tmp_path, fail)
    assert (found.severity, found.code) == ("unknown", "disk-unknown")


def test_a_quota_above_its_disk_is_none(tmp_path: Path) -> None:
    config = AgentConfig.model_validate(
        {
            "agent": {"site_proxies": ["http://a:1"], "node_blobs": tmp_path, "node_blobs_quota": "900TiB"},
            "storage": {"root": tmp_path, "quota": "1MiB"},
        }
    )
    (found,) = disk.quotas(config)
    assert (found.severity, found.code) == ("warn", "quota-too-large")
    assert found.fix.startswith("node_blobs_quota = ")


def test_a_ramdisk_on_a_disk_is_none(tmp_path: Path) -> None:
    (found,) = ramdisk.examine(tmp_path, None, is_agents=True)
    is_memory = os.stat(tmp_path).st_dev == os.stat("/dev/shm").st_dev
    assert found.severity == ("ok" if is_memory else "warn")


def test_a_budget_above_the_memory_is_named(tmp_path: Path) -> None:
    config = AgentConfig.model_validate(
        {"agent": {"site_proxies": ["http://a:1"]}, "unpack": {"ramdisk": tmp_path, "ramdisk_budget": "900TiB"}}
    )
    found = ramdisk.examine(tmp_path, config, is_agents=True)
    assert ("warn", "ramdisk-budget") in [(finding.severity, finding.code) for finding in found]
