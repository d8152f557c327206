"""Images by name: what a name means, and that the same name is the same bytes."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from bench import generated
from bench.image_choice import ImageChoice, recompressed
from bench.machine import describe_image
from bench.session import aim_with
from imagedist.errors import InputError
from imagedist.repack.recipe import Recipe


def nothing(line: str) -> None:
    """Says nothing."""


def test_a_name_says_files_cut_and_compression() -> None:
    choice = ImageChoice.parse("own-300MB, layers=8, zstd=19")
    assert (choice.base, choice.layers, choice.recipe) == ("own-300MB", 8, Recipe.of("zstd", 19))
    assert choice.approximate_bytes == 300_000_000
    assert ImageChoice.parse("reference,pgzip").recipe == Recipe.of("pgzip")
    ours = ImageChoice.parse("reference")
    assert (ours.registry_reference, ImageChoice.parse("python:3.12").registry_reference) == (
        None,
        "docker.io/library/python:3.12",
    )
    assert ImageChoice.parse("python:3.12,layers=1").registry_reference is None


@pytest.mark.parametrize(
    "text", ["small,layers=128", "small,layers", "small,lzma", "small,gzip=fast", "A", "refrence", "own-", "random-0"]
)
def test_a_name_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        ImageChoice.parse(text)


def test_own_files_that_stand_in_for_packages_are_named_and_have_no_aim(tmp_path: Path) -> None:
    built = generated.random_bytes(tmp_path, 4000)
    stand_in = replace(built, layout=built.layout.with_name("own-300000000-4"))
    assert describe_image(stand_in, "reference,layers=4").name == "own files, for want of reference,layers=4"
    assert describe_image(built, "reference").name == "reference"
    assert aim_with(describe_image(stand_in, "reference"), "at most 1.2") == "at most 1.2 with reference"


def test_generated_images_are_the_same_everywhere(tmp_path: Path) -> None:
    """Digests of the plain layers: compressed ones depend on the version of zlib."""
    found = {}
    for name, build in (("random", generated.random_bytes), ("files", generated.tiny_files)):
        first, second = (build(tmp_path / place, 400_000) for place in ("one", "two"))
        assert first.image.manifest_digest == second.image.manifest_digest
        found[name] = first.image.layers[0].diff_id.short
    assert found == {"random": "d280a03c2c20", "files": "43153cbc46e4"}


def test_incompressible_bytes_stay_and_tiny_files_are_many(tmp_path: Path) -> None:
    assert 1_000_000 < generated.random_bytes(tmp_path, 1_000_000).size_bytes < 1_010_000
    built = generated.tiny_files(tmp_path, 400_000)
    plain = gzip.decompress(built.blob(built.image.layers[0].descriptor.digest).read_bytes())
    assert plain.count(b"ustar") > 40


@pytest.mark.parametrize("form", ["gzip=1", "gzip=9", "pgzip", "zstd"])
def test_the_same_files_are_cut_and_compressed_anew_and_stay_the_same_bytes(form: str, tmp_path: Path) -> None:
    choice = ImageChoice.parse(f"files-200KB,layers=3,{form}")
    first, second = (choice.build(tmp_path / place, nothing) for place in ("one", "two"))
    plain = ImageChoice.parse("files-200KB,layers=3").build(tmp_path / "one", nothing)
    assert first.image.manifest_digest == second.image.manifest_digest
    assert [layer.diff_id for layer in first.image.layers] == [layer.diff_id for layer in plain.image.layers]
    assert len(first.image.layers) == 3
    assert (first.image.manifest_digest == plain.image.manifest_digest) == (form == "gzip=6")


def test_a_recompressed_image_is_not_built_twice(tmp_path: Path) -> None:
    source = generated.tiny_files(tmp_path, 100_000)
    index = recompressed(source, Recipe.of("zstd"), tmp_path).layout / "index.json"
    before = index.stat().st_ino
    recompressed(source, Recipe.of("zstd"), tmp_path)
    assert index.stat().st_ino == before
