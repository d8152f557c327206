from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from imagedist.errors import UnacceptableError
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_LAYER, Descriptor, Layer
from imagedist.unpack.extract import extract_layer
from imagedist.unpack.limits import Limits
from imagedist.unpack.ramdisk import Ramdisk
from imagedist.unpack.stage import LayerStage
from tests.support import layers
from tests.support.layers import character_device, file, hardlink

GIB = 1 << 30
DEVICES = layers.tar([character_device("null", 1, 3), hardlink("also", "null"), file("f", b"x")])


def extract(tar: bytes, directory: Path, limits: Limits) -> Path:
    (directory / "tar").write_bytes(tar)
    (directory / "layer").mkdir()
    extract_layer(directory / "tar", directory / "layer", limits)
    return directory / "layer/diff"


@pytest.mark.parametrize(
    ("blob_bytes", "tar_bytes"),
    [(100, GIB), (GIB // 500, GIB), (GIB // 100, GIB // 100 * 500), (50 * GIB, 100 * GIB)],
)
def test_small_layers_may_be_zeros_and_large_ones_are_bounded_by_ratio_and_size(
    blob_bytes: int, tar_bytes: int
) -> None:
    assert Limits().tar_bytes(blob_bytes) == tar_bytes


def test_bomb_is_refused_long_before_its_end(tmp_path: Path) -> None:
    """70 MB of zeros in 70 KB, against a limit of 10 MB: what is staged never gets larger than that."""
    blob = gzip.compress(bytes(70_000_000), 9)
    digest = Digest.of(blob)
    layer = Layer(Descriptor(media_type=f"{OCI_LAYER}+gzip", digest=digest, size_bytes=len(blob)), digest, digest)
    ramdisk = Ramdisk(tmp_path / "ramdisk", GIB, tmp_path / "spill")
    stage = LayerStage(ramdisk, layer, Limits(layer_bytes=10_000_000))
    with pytest.raises(UnacceptableError, match="max_layer_size"):
        stage.feed(blob)
    assert stage.tar_bytes < 12_000_000
    stage.close()
    ramdisk.close()


@pytest.mark.root
def test_devices_are_made_by_default(tmp_path: Path) -> None:
    assert (extract(DEVICES, tmp_path, Limits()) / "also").is_char_device()


def test_devices_are_left_out_with_their_links_when_skipped(tmp_path: Path) -> None:
    assert [path.name for path in extract(DEVICES, tmp_path, Limits(devices="skip")).iterdir()] == ["f"]


def test_devices_are_refused_by_a_message_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UnacceptableError, match=r"'null' is a device node; devices = \"keep\""):
        extract(DEVICES, tmp_path, Limits(devices="refuse"))
