"""The tags that a site knows, with their layers: for patterns and measured base layers of preheats."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from imagedist.config import ProxyConfig
from imagedist.errors import UnauthorizedError
from imagedist.oci.digest import Digest
from imagedist.preheat.shapes import KnownImages
from imagedist.site import Site
from registry_proxy.app import create_app
from tests.support.registry import FaultyRegistry


async def test_known_tags_are_told_to_who_has_the_token_with_their_layers(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    table = {"listen": "127.0.0.1:0", "site_blobs": tmp_path / "site", "site_token_file": tmp_path / "token"}
    async with FaultyRegistry() as upstream:
        image = upstream.add_image("team/app", "1", b"layer")
        upstreams = {
            "up": {"url": upstream.url, "hosts": ["registry.local:5000"]},
            "docker.io": {"url": upstream.url},
            "nameless": {"url": upstream.url},
        }
        config = ProxyConfig.model_validate({"proxy": table, "upstreams": upstreams})
        async with TestClient(TestServer(create_app(config))) as proxy:
            for upstream_name in upstreams:
                answer = await proxy.get(f"/v2/{upstream_name}/team/app/manifests/1")
                assert answer.status == 200
            asked = sum(upstream.requests.values())
            operator, stranger = (
                Site([str(proxy.make_url("")).rstrip("/")], [], "x", token) for token in ("secret", None)
            )
            try:
                known = await operator.call("GET", "images", {}, KnownImages)
                assert sorted(each.reference for each in known.images) == [
                    "docker.io/team/app:1",
                    "registry.local:5000/team/app:1",
                ]
                assert {each.digest for each in known.images} == {image}
                assert [layer.digest for layer in known.images[0].layers] == [Digest.of(b"layer")]
                assert sum(upstream.requests.values()) == asked
                with pytest.raises(UnauthorizedError):
                    await stranger.call("GET", "images", {}, KnownImages)
            finally:
                await operator.close()
                await stranger.close()
