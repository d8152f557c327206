from __future__ import annotations

from pathlib import Path

from imagedist.oci.digest import Digest
from registry_proxy.wave import Waves

BLOB, OTHER = Digest.of(b"1"), Digest.of(b"2")


def test_first_nodes_stream_and_the_rest_wait_for_a_while() -> None:
    now = 100.0
    waves = Waves(2, 20.0, lambda: now)
    assert [waves.patience(BLOB, node) for node in "abcab"] == [0, 0, 20, 0, 0]
    now = 110.0
    assert [waves.patience(BLOB, node) for node in "cd"] == [10, 20]
    now = 121.0
    assert [waves.patience(BLOB, node) for node in "cd"] == [0, 9]


def test_each_blob_has_its_own_wave_and_it_ends_with_the_torrent() -> None:
    waves = Waves(1, 20.0, lambda: 0.0)
    assert [waves.patience(blob, node) for blob in (BLOB, OTHER) for node in "ab"] == [0, 20, 0, 20]
    waves.forget(BLOB)
    assert waves.patience(BLOB, "b") == 0


def test_workers_agree_who_streams_and_how_long_the_others_have_waited(tmp_path: Path) -> None:
    now = 100.0
    one, other = (Waves(2, 20.0, lambda: now, tmp_path) for _ in range(2))
    assert [waves.patience(BLOB, node) for waves in (one, other) for node in "ab"] == [0, 0, 0, 0]
    assert one.patience(BLOB, "c") == 20
    now = 110.0
    assert [waves.patience(BLOB, node) for waves in (one, other) for node in "abc"] == [0, 0, 10, 0, 0, 10]


def test_a_wave_that_one_worker_ended_is_over_for_all(tmp_path: Path) -> None:
    one, other = (Waves(1, 20.0, lambda: 0.0, tmp_path) for _ in range(2))
    assert [waves.patience(BLOB, node) for waves in (one, other) for node in "ab"] == [0, 20, 0, 20]
    one.forget(BLOB)
    assert list(tmp_path.iterdir()) == []
    assert one.patience(BLOB, "b") == 0
    assert [other.patience(BLOB, node) for node in "cb"] == [20, 0]


def test_a_directory_that_cannot_be_written_leaves_each_worker_to_itself(tmp_path: Path) -> None:
    waves = Waves(1, 20.0, lambda: 0.0, tmp_path / "gone")
    assert [waves.patience(BLOB, node) for node in "abab"] == [0, 20, 0, 20]
    waves.forget(BLOB)
