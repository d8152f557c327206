"""The agent's own tmpfs: there while it runs, gone after it, never over an operator's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from imagedist.agent.ramdisk import mounted

pytestmark = pytest.mark.root

BUDGET = 32 << 20


def mount_line(directory: Path) -> list[str]:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return next((fields for fields in lines if fields[4] == str(directory)), [])


def test_a_private_tmpfs_of_the_budgets_size_is_there_for_the_agents_life(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "ramdisk"
    with mounted(directory, BUDGET):
        fields = mount_line(directory)
        assert {"nosuid", "nodev", "noexec"} <= set(fields[5].split(","))
        assert not any(field.startswith(("shared:", "master:")) for field in fields)
        assert directory.stat().st_mode & 0o777 == 0o700
        sizes = os.statvfs(directory)
        assert BUDGET * 32 / 31 <= sizes.f_blocks * sizes.f_frsize <= BUDGET * 1.2
    assert not os.path.ismount(directory)


def test_a_killed_agents_ramdisk_is_replaced_and_its_pages_are_free(tmp_path: Path) -> None:
    killed = mounted(tmp_path, BUDGET)
    killed.__enter__()
    (tmp_path / "staged").write_bytes(bytes(1 << 20))
    with mounted(tmp_path, 2 * BUDGET):
        assert list(tmp_path.iterdir()) == []
        assert os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize > 2 * BUDGET
    assert not os.path.ismount(tmp_path)
    killed.__exit__(None, None, None)


def test_a_ramdisk_that_is_still_in_use_is_shared_and_gets_the_new_size(tmp_path: Path) -> None:
    with mounted(tmp_path, BUDGET), (tmp_path / "staged").open("wb"):
        with mounted(tmp_path, 2 * BUDGET):
            assert (tmp_path / "staged").exists()
            assert os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize > 2 * BUDGET
        assert os.path.ismount(tmp_path)
    assert not os.path.ismount(tmp_path)


def test_what_an_operator_mounted_is_left_as_it_is(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "own", str(tmp_path)], check=True)
    try:
        with mounted(tmp_path, BUDGET):
            assert os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize == 1 << 20
        assert os.path.ismount(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_nothing_is_mounted_for_no_budget_nor_in_dev_shm(tmp_path: Path) -> None:
    with mounted(tmp_path, 0), mounted(Path("/dev/shm/imagedist-test-nowhere"), BUDGET):
        assert not os.path.ismount(tmp_path)
        assert not Path("/dev/shm/imagedist-test-nowhere").exists()
