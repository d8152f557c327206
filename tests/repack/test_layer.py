from __future__ import annotations

import dataclasses
import gzip
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from imagedist.errors import InputError, IntegrityError, StorageError, UnacceptableError
from imagedist.oci.digest import Digest
from imagedist.oci.image import Layer
from imagedist.repack.layer import LayerRepacker, RepackedLayer
from imagedist.repack.recipe import Compression, Recipe
from imagedist.unpack.gzip_members import indexed_size
from tests.support import layers

TAR = layers.tar([layers.file(f"f{number}", os.urandom(50_000) + bytes(100_000)) for number in range(30)])
RECIPES = [
    Recipe.of("pgzip"),
    Recipe.of("pgzip", 1, 64 << 10),
    Recipe.of("gzip"),
    Recipe.of("zstd"),
    Recipe.of("zstd", 1),
]


def repacked(
    layer: Layer, blob: bytes, recipe: Recipe, path: Path, chunk_bytes: int = 100_000, threads: int = 2
) -> RepackedLayer:
    repacker = LayerRepacker(layer, recipe, path, threads)
    try:
        for start in range(0, len(blob), chunk_bytes):
            repacker.feed(blob[start : start + chunk_bytes])
        return repacker.finish()
    finally:
        repacker.close()


def plain(content: bytes, compression: Compression) -> bytes:
    if compression == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return gzip.decompress(content)


@pytest.mark.parametrize("tar", [TAR, b"", bytes(1024)], ids=["files", "nothing", "empty"])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_client_can_read_what_was_repacked(tmp_path: Path, recipe: Recipe, tar: bytes) -> None:
    new = repacked(*layers.layer(tar), recipe, tmp_path / "new")
    content = new.path.read_bytes()
    assert plain(content, recipe.compression) == tar
    assert (new.digest, new.size_bytes, new.plain_bytes) == (Digest.of(content), len(content), len(tar))


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_same_files_give_the_same_bytes_however_they_came(tmp_path: Path, recipe: Recipe) -> None:
    made = {
        repacked(
            *layers.layer(TAR, compression), recipe, tmp_path / f"{compression}{chunk_bytes}", chunk_bytes, threads
        ).digest
        for compression in ("none", "gzip", "indexed gzip", "zstd")
        for chunk_bytes, threads in ((7919, 1), (1 << 20, 3))
    }
    assert len(made) == 1


def test_pgzip_members_carry_their_size(tmp_path: Path) -> None:
    new = repacked(*layers.layer(TAR), Recipe.of("pgzip", block_bytes=64 << 10), tmp_path / "new")
    content, sizes = new.path.read_bytes(), []
    while content:
        size_bytes = indexed_size(content)
        assert size_bytes is not None
        sizes.append(len(gzip.decompress(content[:size_bytes])))
        content = content[size_bytes:]
    assert set(sizes[:-1]) == {64 << 10}
    assert sum(sizes) == len(TAR)


def test_wrong_diff_id_digest_or_size_is_an_integrity_error(tmp_path: Path) -> None:
    layer, blob = layers.layer(TAR)
    other = dataclasses.replace(layer, diff_id=Digest.of(b"other"))
    with pytest.raises(IntegrityError, match="expected diff ID"):
        repacked(other, blob, RECIPES[0], tmp_path / "diff")
    with pytest.raises(IntegrityError, match="ended after"):
        repacked(layer, blob[:-1], RECIPES[0], tmp_path / "short")
    with pytest.raises(IntegrityError, match="longer"):
        repacked(layer, blob + b"x", RECIPES[0], tmp_path / "long")
    wrong, stored = layers.layer(TAR, "none")
    with pytest.raises(IntegrityError, match="wrong bytes"):
        repacked(wrong, stored[:-1] + b"x", RECIPES[0], tmp_path / "digest")


def test_bomb_is_refused_and_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    layer, blob = layers.layer(bytes(20 << 20))
    repacker = LayerRepacker(layer, RECIPES[0], tmp_path / "bomb", 2)
    repacker._max_plain_bytes = 5 << 20
    with pytest.raises(UnacceptableError, match="more than 5242880 bytes"):
        repacker.feed(blob)
    repacker.close()
    assert threading.active_count() == before


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 200 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_disk_that_takes_no_more_is_a_storage_error_and_leaves_no_thread(
    tmp_path: Path, recipe: Recipe, full_disk: None
) -> None:
    before = threading.active_count()
    with pytest.raises(StorageError, match="cannot write a repacked layer"):
        repacked(*layers.layer(TAR, "none"), recipe, tmp_path / "new")
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pgzip", 10), "bad level 10 for pgzip: expected 1 to 9"),
        (("zstd", 0), "expected 1 to 22"),
        (("pgzip", None, 1000), "bad block size 1000"),
        (("pgzip", None, 1 << 22), "bad block size"),
        (("gzip", None, 1 << 20), "gzip has no blocks"),
    ],
)
def test_recipe_that_does_not_exist_is_refused(arguments: tuple[Compression, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Recipe.of(*arguments)
