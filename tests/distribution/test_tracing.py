"""Which hops an answer came through."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from imagedist import __version__
from imagedist.hops import HEADER, parse_hops
from tests.support import layers
from tests.support.site import REGISTRY, Site

_AGENT, _PROXY, _SEEDER = (f"{name}/{__version__}" for name in ("agent", "proxy", "seeder"))


async def hops(url: str) -> tuple[int, list[str]]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        await answer.read()
        return answer.status, parse_hops(answer.headers.get(HEADER))


async def test_an_answer_names_every_hop_it_came_through_and_one_from_the_cache_only_the_cache(tmp_path: Path) -> None:
    built = layers.image([[layers.file("a", b"a")]])
    async with Site(tmp_path) as site, site.agent() as (_, mirror, _):
        site.put(built, "team/app", "1")
        manifest = f"http://{mirror}/v2/{REGISTRY}/team/app/manifests"
        assert await hops(f"{manifest}/1") == (200, [_AGENT, _PROXY, "upstream"])
        assert await hops(f"{manifest}/1") == (200, [_AGENT, _PROXY])
        assert await hops(f"{manifest}/{built.image.manifest_digest}") == (200, [_AGENT])
        assert await hops(f"{manifest}/none") == (404, [_AGENT, _PROXY, "upstream"])
        layer = f"http://{mirror}/v2/{REGISTRY}/team/app/blobs/{built.image.layers[0].descriptor.digest}"
        assert (await hops(layer))[1][:1] == [_AGENT], "a body that is streamed"
        # Each request on a connection is a new one.
        assert await hops(f"http://{mirror}/v2/") == (200, [_AGENT])
        assert await hops(f"http://{mirror}/v2/{REGISTRY}/UPPER/manifests/1") == (400, [_AGENT])
        assert await hops(f"http://{site.seeder}/livez") == (200, [_SEEDER])
        assert await hops(f"http://{site.proxy}/readyz") == (200, [_PROXY])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("agent/0.1.0, proxy/0.2.0+x, upstream", ["agent/0.1.0", "proxy/0.2.0+x", "upstream"]),
        (None, []),
        ("", []),
        ("<script>", []),
        ("agent/0.1.0, Some/other thing", []),
        (", ".join(["proxy"] * 20), ["proxy"] * 8),
    ],
)
def test_a_header_of_another_form_is_no_trace(value: str | None, expected: list[str]) -> None:
    assert parse_hops(value) == expected
