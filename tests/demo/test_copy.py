from __future__ import annotations

from pathlib import Path

import pytest

from imagedist.demo.copy import copy_image
from imagedist.demo.layout import blob_path, open_layout
from imagedist.errors import IntegrityError
from imagedist.oci.digest import Digest
from imagedist.oci.reference import Reference
from tests.support.registry import FaultyRegistry

LAYER = bytes(1024)


async def test_image_is_copied_once_into_a_layout(tmp_path: Path) -> None:
    async with FaultyRegistry() as registry:
        manifest = registry.add_image("team/app", "1", LAYER)
        reference = Reference.parse(f"{registry.url.removeprefix('http://')}/team/app:1")
        for _ in range(2):
            assert await copy_image(reference, tmp_path, plain_http=True) == tmp_path
        assert registry.blob_gets[Digest.of(LAYER)] == 1
    assert blob_path(tmp_path, Digest.of(LAYER)).read_bytes() == LAYER
    assert open_layout(tmp_path).image.manifest_digest == manifest


async def test_layer_with_wrong_bytes_is_not_kept(tmp_path: Path) -> None:
    async with FaultyRegistry() as registry:
        registry.add_image("team/app", "1", LAYER)
        registry.blobs[Digest.of(LAYER)] = bytes(1023) + b"x"
        reference = Reference.parse(f"{registry.url.removeprefix('http://')}/team/app:1")
        with pytest.raises(IntegrityError, match="wrong bytes"):
            await copy_image(reference, tmp_path, plain_http=True)
    assert [path.name for path in tmp_path.rglob("*") if str(Digest.of(LAYER).hex) in path.name] == []
