from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagedist.errors import StorageError
from imagedist.locking import LockFile, PrivateDirectory, private_locks, remove_tree
from tests.support.dead import DEAD, GONE


def test_what_cannot_be_removed_keeps_its_lock_and_goes_with_a_later_owner(tmp_path: Path) -> None:
    (tmp_path / f"{DEAD}.lock").touch()
    stubborn = tmp_path / DEAD
    stubborn.touch()  # no directory: rmtree fails, as beside a worker that still writes
    PrivateDirectory(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == [".lock", DEAD, f"{DEAD}.lock"]
    stubborn.unlink()
    stubborn.mkdir()
    PrivateDirectory(tmp_path).close()
    assert os.listdir(tmp_path) == [".lock"]


def test_looking_at_locks_does_not_bring_back_one_that_was_just_removed(tmp_path: Path) -> None:
    (tmp_path / f"{DEAD}.lock").touch()
    (tmp_path / f"{GONE}.lock").touch()
    seen = []
    for lock in private_locks(tmp_path):
        seen.append(lock.path.name)
        (tmp_path / f"{GONE}.lock").unlink(missing_ok=True)
        lock.close()
    assert seen == [f"{DEAD}.lock"]
    assert os.listdir(tmp_path) == [f"{DEAD}.lock"]


def test_lock_files_of_others_and_what_lies_beside_them_stay(tmp_path: Path) -> None:
    (tmp_path / "Cargo.lock").touch()
    (tmp_path / "work.lock").touch()
    (tmp_path / "work").mkdir()
    (tmp_path / "work/precious").touch()
    before = sorted(tmp_path.rglob("*"))
    PrivateDirectory(tmp_path).close()
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before


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


def made_by_another_user(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 65534, 65534)


def a_symlink(directory: Path) -> None:
    directory.with_name("elsewhere").mkdir()
    directory.symlink_to("elsewhere")


def open_to_others(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)


@pytest.mark.root
@pytest.mark.parametrize("make", [made_by_another_user, a_symlink, open_to_others])
def test_a_directory_that_somebody_else_may_have_made_first_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    everybodys = tmp_path / "shm"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    make(everybodys / "imagedist")
    (everybodys / "imagedist/.lock").symlink_to(tmp_path / "made by root")
    with pytest.raises(StorageError, match="not a directory of this user alone; remove it, or choose another"):
        PrivateDirectory(everybodys / "imagedist")
    assert not (tmp_path / "made by root").exists()
    PrivateDirectory(everybodys / "ours").close()
    PrivateDirectory(everybodys / "ours").close()


def test_a_lock_file_is_no_way_to_another_file(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "another")
    with pytest.raises(StorageError, match="cannot open a lock file"):
        LockFile(tmp_path / ".lock")
    assert not (tmp_path / "another").exists()
