"""Torrents: the same blob gives the same bytes as libtorrent's own builder, and nothing else is accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import libtorrent
import prometheus_client
import pytest

from imagedist.errors import InputError, IntegrityError, StorageError
from imagedist.oci.digest import Digest
from imagedist.swarm import bencode, torrent
from imagedist.swarm.expected import expect_torrent
from tests.swarm.blobs import make_blob

KIB = 1 << 10
SIZES = [1, 16 * KIB, 16 * KIB + 1, 64 * KIB, 64 * KIB + 1, 5 * 64 * KIB + 3, 8 << 20, (8 << 20) + 1]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_libtorrent_reads_the_same_infohash_and_the_same_piece_hashes(tmp_path: Path, size_bytes: int) -> None:
    blob = make_blob(tmp_path, size_bytes)
    facts = torrent.parse(blob.torrent)
    made = libtorrent.create_torrent(
        [libtorrent.create_file_entry(blob.digest.hex, size_bytes)],
        facts.piece_length,
        libtorrent.create_torrent.v2_only,
    )
    made.set_priv(True)
    libtorrent.set_piece_hashes(made, str(tmp_path))
    reference = made.generate()
    ours: Any = bencode.decode(blob.torrent)
    assert ours[b"info"] == reference[b"info"]
    assert ours[b"piece layers"] == reference[b"piece layers"]
    info = libtorrent.load_torrent_buffer(blob.torrent).ti
    assert info is not None
    assert info.info_hashes().v2.to_bytes() == facts.infohash
    assert torrent.is_as_built(blob.torrent[: torrent.HEAD_BYTES])
    length = f"12:piece lengthi{facts.piece_length}e".encode()
    assert not torrent.is_as_built(blob.torrent.replace(length, b"12:piece lengthi32768e")[: torrent.HEAD_BYTES])
    assert not info.info_hashes().has_v1()
    assert info.priv()


def test_a_torrent_says_nothing_but_the_blob(tmp_path: Path) -> None:
    blob = make_blob(tmp_path, 100_000)
    document: Any = bencode.decode(blob.torrent)
    assert set(document) == {b"info", b"piece layers"}
    assert document[b"info"][b"name"] == blob.digest.hex.encode()
    assert torrent.build(tmp_path / blob.digest.hex, blob.digest) == blob.torrent


def test_facts_tell_pieces_and_their_sizes(tmp_path: Path) -> None:
    facts = torrent.parse(make_blob(tmp_path, 64 * KIB + 5).torrent)
    assert (facts.piece_count, facts.piece_size(0), facts.piece_size(1)) == (2, 64 * KIB, 5)
    assert facts.short_infohash == facts.infohash[:20]


@pytest.mark.parametrize(
    ("size_bytes", "length"),
    [
        (1, 64 * KIB),
        (16 << 20, 64 * KIB),
        ((16 << 20) + 1, 128 * KIB),
        (64 << 20, 128 * KIB),
        (256 << 20, 256 * KIB),
        (1 << 30, 512 * KIB),
        (4 << 30, 1024 * KIB),
        (16 << 30, 2048 * KIB),
        (100 << 30, 4096 * KIB),
    ],
)
def test_piece_length_depends_on_size_alone(size_bytes: int, length: int) -> None:
    assert torrent.piece_length(size_bytes) == length


def test_only_sha256_blobs_with_bytes_have_a_torrent(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="only sha256"):
        torrent.build(tmp_path / "empty", Digest.of(b"", "sha512"))
    with pytest.raises(InputError, match="empty blob"):
        torrent.build(tmp_path / "empty", Digest.of(b""))


def test_an_unreadable_blob_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        torrent.build(tmp_path / "nowhere", Digest.of(b"x"))


def _set(key: bytes, value: Any) -> Callable[[dict[bytes, Any]], None]:
    return lambda document: document[b"info"].__setitem__(key, value)


def _rename(name: bytes) -> Callable[[dict[bytes, Any]], None]:
    def change(document: dict[bytes, Any]) -> None:
        info = document[b"info"]
        info[b"file tree"] = {name: next(iter(info[b"file tree"].values()))}
        info[b"name"] = name

    return change


def _resize(size_bytes: int) -> Callable[[dict[bytes, Any]], None]:
    return lambda document: next(iter(document[b"info"][b"file tree"].values()))[b""].__setitem__(b"length", size_bytes)


def _layers(change: Callable[[bytes], bytes]) -> Callable[[dict[bytes, Any]], None]:
    def apply(document: dict[bytes, Any]) -> None:
        layers = document[b"piece layers"]
        for root in layers:
            layers[root] = change(layers[root])

    return apply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set(b"private", 0), "kind"),
        (_set(b"piece length", 16 * KIB), "piece_length"),
        (_set(b"meta version", 1), "kind"),
        (_set(b"pieces", bytes(20)), "kind"),
        (_set(b"name", b"f" * 64), "kind"),
        (_set(b"file tree", {}), "kind"),
        (_set(b"file tree", [1]), "kind"),
        (_rename(b"../../../etc/cron.d/x"), "name"),
        (_rename(b"F" * 64), "name"),
        (_resize(0), "size"),
        (_resize(-1), "size"),
        (_resize(1 << 62), "piece_length"),
        (_resize(64 * KIB), "hashes"),
        (lambda document: document.update({b"url-list": b"http://evil/"}), "kind"),
        (lambda document: document.update({b"announce": b"http://evil/"}), "kind"),
        (lambda document: document.pop(b"piece layers"), "kind"),
        (lambda document: document.update({b"piece layers": {}}), "hashes"),
        (_layers(lambda joined: joined[:-1]), "hashes"),
        (_layers(lambda joined: bytes(len(joined))), "hashes"),
        (_layers(lambda joined: joined + bytes(32)), "hashes"),
    ],
)
def test_anything_else_than_our_own_form_is_refused_and_counted_by_reason(
    tmp_path: Path, change: Callable[[dict[bytes, Any]], object], reason: str
) -> None:
    blob = make_blob(tmp_path, 200_000)
    document: Any = bencode.decode(blob.torrent)
    change(document)
    before = _refused(reason)
    with pytest.raises(IntegrityError):
        expect_torrent(bencode.encode(document), blob.digest)
    assert _refused(reason) == before + 1


def test_the_torrent_of_another_blob_is_refused_and_counted(tmp_path: Path) -> None:
    blob = make_blob(tmp_path, 1000)
    before = _refused("digest")
    with pytest.raises(IntegrityError, match="is that of"):
        expect_torrent(blob.torrent, Digest.of(b"another"))
    assert _refused("digest") == before + 1


def _refused(reason: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("imagedist_torrents_refused_total", {"reason": reason}) or 0.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "encoding"),
        (b"<html>", "encoding"),
        (b"de", "kind"),
        (b"le", "kind"),
        (b"i1e", "kind"),
        (b"d4:infoi1e12:piece layersdee", "name"),
        (bytes(9 << 20), "size"),
    ],
)
def test_what_is_no_torrent_at_all_is_refused_and_counted(text: bytes, reason: str) -> None:
    before = _refused(reason)
    with pytest.raises(IntegrityError):
        expect_torrent(text, Digest.of(b"x"))
    assert _refused(reason) == before + 1
