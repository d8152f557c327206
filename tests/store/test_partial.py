from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from imagedist.errors import IntegrityError
from imagedist.oci.digest import Digest
from imagedist.store.partial import Partial

CONTENT = b"layer" * 1000
DIGEST = Digest.of(CONTENT)


def claim(path: Path) -> Partial:
    partial = Partial.claim(path, DIGEST)
    assert partial is not None
    return partial


def test_lock_is_held_until_a_commit_under_way_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled task gives up the lock while its thread still commits: nobody else may get the file meanwhile."""
    renaming, proceed = threading.Event(), threading.Event()
    real_utime = os.utime

    def utime(descriptor: int) -> None:
        renaming.set()
        assert proceed.wait(30)
        real_utime(descriptor)

    monkeypatch.setattr(os, "utime", utime)
    path, final = tmp_path / "partial", tmp_path / "final"
    partial = claim(path)
    partial.append(CONTENT)
    committing = threading.Thread(target=partial.commit, args=(final,))
    committing.start()
    assert renaming.wait(30)
    releasing = threading.Thread(target=partial.release)
    releasing.start()
    releasing.join(0.05)
    assert Partial.claim(path, DIGEST) is None
    proceed.set()
    committing.join(30)
    releasing.join(30)
    assert final.read_bytes() == CONTENT


def test_released_file_is_no_longer_taken_over(tmp_path: Path) -> None:
    partial = claim(tmp_path / "partial")
    partial.append(CONTENT)
    partial.release()
    heir = claim(tmp_path / "partial")
    heir.release()
    assert heir.take_over() == 0


def test_wrong_bytes_are_never_renamed(tmp_path: Path) -> None:
    partial = claim(tmp_path / "partial")
    partial.append(CONTENT[:-1] + b"!")
    with pytest.raises(IntegrityError, match="wrong bytes"):
        partial.commit(tmp_path / "final")
    partial.drop()
    assert list(tmp_path.iterdir()) == []
