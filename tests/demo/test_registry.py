from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagedist.demo.image import NAME
from imagedist.demo.layout import BuiltImage
from imagedist.demo.registry import LayoutBackend, create_app
from imagedist.distribution.rate import TokenBucket
from imagedist.errors import InputError
from imagedist.oci.digest import Digest

REPOSITORY, _, TAG = NAME.partition(":")
Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def opened(built: BuiltImage, rate: TokenBucket | None = None) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(LayoutBackend(built, NAME, rate), rate))) as client:
        yield client


async def test_the_manifest_is_served_by_tag_and_by_digest(built: BuiltImage) -> None:
    async with opened(built) as client:
        for reference in (TAG, str(built.image.manifest_digest)):
            response = await client.get(f"/v2/{REPOSITORY}/manifests/{reference}")
            assert await response.read() == built.image.manifest_bytes
            assert response.headers["Docker-Content-Digest"] == str(built.image.manifest_digest)


async def test_gets_and_bytes_are_counted_by_blob_until_reset(built: BuiltImage) -> None:
    layer = built.image.layers[1].descriptor
    async with opened(built) as client:
        for _ in range(2):
            response = await client.get(f"/v2/{REPOSITORY}/blobs/{layer.digest}")
            assert Digest.of(await response.read()) == layer.digest
        await client.head(f"/v2/{REPOSITORY}/blobs/{layer.digest}")
        stats = await (await client.get("/stats")).json()
        await client.post("/stats/reset")
        empty = await (await client.get("/stats")).json()

    assert stats["blobs"] == {str(layer.digest): {"gets": 2, "bytes": 2 * layer.size_bytes}}
    assert stats["bytes"] == 2 * layer.size_bytes
    assert empty == {"bytes": 0, "blobs": {}}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{REPOSITORY}/manifests/other", "MANIFEST_UNKNOWN"),
        (f"{REPOSITORY}/blobs/{Digest.of(b'')}", "BLOB_UNKNOWN"),
        (f"team/other/manifests/{TAG}", "NAME_UNKNOWN"),
    ],
)
async def test_what_is_not_there_is_named_as_the_specification_says(built: BuiltImage, path: str, code: str) -> None:
    async with opened(built) as client:
        response = await client.get(f"/v2/{path}")
        assert response.status == 404
        assert (await response.json())["errors"][0]["code"] == code


async def test_tags_and_referrers_are_answered(built: BuiltImage) -> None:
    async with opened(built) as client:
        tags = await (await client.get(f"/v2/{REPOSITORY}/tags/list")).json()
        path = f"/v2/{REPOSITORY}/referrers/{built.image.manifest_digest}"
        referrers = await (await client.get(path)).json(content_type=None)

    assert tags == {"name": REPOSITORY, "tags": [TAG]}
    assert referrers["manifests"] == []


async def test_every_byte_is_paid_for_at_the_rate(built: BuiltImage) -> None:
    waited_seconds = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal waited_seconds
        waited_seconds += seconds

    layer = built.image.layers[1].descriptor
    rate = TokenBucket(1000, 0, clock=lambda: waited_seconds, sleep=sleep)
    async with opened(built, rate) as client:
        await (await client.get(f"/v2/{REPOSITORY}/manifests/{TAG}")).read()
        await (await client.get(f"/v2/{REPOSITORY}/blobs/{layer.digest}")).read()

    assert waited_seconds == pytest.approx((layer.size_bytes + len(built.image.manifest_bytes)) / 1000)


def test_a_name_without_a_tag_is_refused(built: BuiltImage) -> None:
    with pytest.raises(InputError, match="expected repository:tag"):
        LayoutBackend(built, REPOSITORY)
