from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagedist.locking import PrivateDirectory, private_locks, remove_tree


def test_what_cannot_be_removed_keeps_its_lock_and_goes_with_a_later_owner(tmp_path: Path) -> None:
    (tmp_path / "0123.lock").touch()
    stubborn = tmp_path / "0123"
    stubborn.touch()  # no directory: rmtree fails, as beside a worker that still writes
    PrivateDirectory(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == [".lock", "0123", "0123.lock"]
    stubborn.unlink()
    stubborn.mkdir()
    PrivateDirectory(tmp_path).close()
    assert os.listdir(tmp_path) == [".lock"]


def test_looking_at_locks_does_not_bring_back_one_that_was_just_removed(tmp_path: Path) -> None:
    (tmp_path / "a.lock").touch()
    (tmp_path / "b.lock").touch()
    seen = []
    for lock in private_locks(tmp_path):
        seen.append(lock.path.name)
        (tmp_path / "b.lock").unlink(missing_ok=True)
        lock.close()
    assert seen == ["a.lock"]
    assert os.listdir(tmp_path) == ["a.lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root removes anything")
def test_read_only_directories_of_a_layer_are_removed_without_root(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (tmp_path / "tree/closed/inner").mkdir(parents=True)
    (tmp_path / "tree/link").symlink_to(outside)
    (tmp_path / "tree/closed").chmod(0)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert outside.stat().st_mode & 0o777 == 0o500
