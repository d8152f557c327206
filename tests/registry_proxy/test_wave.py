from __future__ import annotations

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
