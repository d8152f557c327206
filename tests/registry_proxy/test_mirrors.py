"""An upstream with mirrors, behind an assembled proxy's cache: order, health, lies."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from imagedist.config import ProxyConfig
from imagedist.distribution.backend import Target
from imagedist.errors import IntegrityError, NotFoundError, SourceError
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from registry_proxy.cache import SiteCache
from registry_proxy.upstream import Upstreams
from tests.support.registry import PASSWORD, USERNAME, FaultyRegistry, basic

LAYER = os.urandom(2 << 20)
BLOB = Digest.of(LAYER)
TARGET = Target("up", "team/app")


class Chain:
    """A registry and its mirrors, all with the same image unless a test takes it away."""

    def __init__(self, mirrors: int) -> None:
        self.registry = FaultyRegistry()
        self.mirrors = [FaultyRegistry() for _ in range(mirrors)]
        self.manifest = Digest.of(b"")

    def __iter__(self) -> Iterator[FaultyRegistry]:
        return iter([*self.mirrors, self.registry])

    def asked(self) -> list[int]:
        """How often each was asked for anything of a repository, the registry last."""
        return [sum(count for what, count in each.requests.items() if "/v2/" in what) for each in self]


@asynccontextmanager
async def chain(mirrors: int) -> AsyncIterator[Chain]:
    made = Chain(mirrors)
    async with AsyncExitStack() as stack:
        for each in made:
            await stack.enter_async_context(each)
            made.manifest = each.add_image("team/app", "1", LAYER)
        yield made


@asynccontextmanager
async def cache_of(made: Chain, directory: Path, **settings: Any) -> AsyncIterator[SiteCache]:
    directory.mkdir(exist_ok=True)
    table = {"url": made.registry.url, "mirrors": [each.url for each in made.mirrors]} | settings
    config = ProxyConfig.model_validate(
        {"proxy": {"listen": "127.0.0.1:0", "site_blobs": directory}, "upstreams": {"up": table}}
    )
    cache = SiteCache(BlobStore(directory), Upstreams(config))
    try:
        yield cache
    finally:
        await cache.close()
        await cache.upstreams.close()


async def read(cache: SiteCache, target: Target = TARGET) -> bytes:
    blob = await cache.open_blob(target, BLOB)
    try:
        content = b""
        while len(content) < blob.size_bytes:
            content += await blob.read(len(content), 1 << 20)
        return content
    finally:
        await blob.close()


async def test_first_mirror_that_has_it_is_the_only_one_asked(tmp_path: Path) -> None:
    async with chain(2) as made, cache_of(made, tmp_path) as cache:
        assert (await cache.manifest(TARGET, "1")).digest == made.manifest
        assert await read(cache) == LAYER
        assert made.asked() == [2, 0, 0]


async def test_mirror_is_told_which_registry_is_meant(tmp_path: Path) -> None:
    async with chain(1) as made, cache_of(made, tmp_path) as cache:
        await read(cache)
        assert made.mirrors[0].queries == [{"ns": made.registry.url.removeprefix("http://")}]


async def test_path_of_a_mirror_is_put_before_every_repository(tmp_path: Path) -> None:
    async with chain(0) as made, FaultyRegistry() as mirror:
        mirror.add_image("hub/team/app", "1", LAYER)
        async with cache_of(made, tmp_path, mirrors=[f"{mirror.url}/v2/hub"]) as cache:
            assert (await cache.manifest(TARGET, "1")).digest
        assert mirror.requests["GET /v2/hub/team/app/manifests/1"] == 1
        assert made.asked() == [0]


async def test_what_a_mirror_does_not_have_comes_from_the_next(tmp_path: Path) -> None:
    async with chain(2) as made, cache_of(made, tmp_path) as cache:
        made.mirrors[0].blobs.clear()
        made.mirrors[0].manifests.clear()
        assert (await cache.manifest(TARGET, "1")).digest
        assert await read(cache) == LAYER
        assert made.asked() == [2, 2, 0]


async def test_what_nobody_has_is_the_registrys_word(tmp_path: Path) -> None:
    async with chain(1) as made, cache_of(made, tmp_path) as cache:
        for each in made:
            each.manifests.clear()
            each.blobs.clear()
        with pytest.raises(NotFoundError, match=made.registry.url.removeprefix("http://")):
            await cache.manifest(TARGET, "1")
        with pytest.raises(NotFoundError):
            await read(cache)


async def test_mirror_that_breaks_off_is_continued_by_the_registry(tmp_path: Path) -> None:
    async with chain(1) as made, cache_of(made, tmp_path) as cache:
        made.mirrors[0].cuts = [700_000, *([0] * 9)]
        assert await read(cache) == LAYER
        assert made.registry.blob_gets == {BLOB: 1}


async def test_mirror_that_is_gone_does_not_stop_anything(tmp_path: Path) -> None:
    async with chain(1) as made, cache_of(made, tmp_path) as cache:
        await made.mirrors[0].__aexit__()
        assert (await cache.manifest(TARGET, "1")).digest
        assert await read(cache) == LAYER


async def test_mirror_that_lies_is_blamed_and_not_asked_again(tmp_path: Path) -> None:
    async with chain(1) as made, cache_of(made, tmp_path) as cache:
        made.mirrors[0].corrupt = True
        with pytest.raises(IntegrityError):  # its bytes were on their way to the client: nobody can take them back
            await read(cache)
        assert not cache.store.has(BLOB)
        assert await read(cache) == LAYER
        assert made.asked() == [1, 1]
        assert (await cache.manifest(TARGET, "1")).digest
        assert made.asked() == [1, 2]


async def test_mirror_with_a_manifest_of_another_digest_is_passed_over_at_once(tmp_path: Path) -> None:
    async with chain(1) as made, cache_of(made, tmp_path) as cache:
        digest = made.manifest
        media_type, body = made.mirrors[0].manifests["team/app", str(digest)]
        made.mirrors[0].manifests["team/app", str(digest)] = (media_type, body + b" ")
        assert (await cache.manifest(TARGET, str(digest))).digest == digest
        assert await read(cache) == LAYER
        assert made.asked() == [1, 2]


async def test_registry_that_lies_is_asked_again(tmp_path: Path) -> None:
    async with chain(0) as made, cache_of(made, tmp_path) as cache:
        made.registry.corrupt = True
        with pytest.raises(IntegrityError):
            await read(cache)
        made.registry.corrupt = False
        cache._failures._errors.clear()
        assert await read(cache) == LAYER


async def test_credentials_of_a_registry_and_of_clients_are_not_shown_to_its_mirrors(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    async with chain(1) as made:
        settings = {"username": USERNAME, "password_file": tmp_path / "password"}
        async with cache_of(made, tmp_path / "site", **settings) as cache:
            made.registry.auth = made.mirrors[0].auth = "basic"
            assert await read(cache) == LAYER
            assert made.mirrors[0].authorizations == {None}
            place = cache.upstreams.resolve(TARGET)
            theirs = place.client.with_authorization(basic())
            assert (await theirs.manifest("team/app", "1")).digest
            assert made.mirrors[0].authorizations == {None}


async def test_failing_registry_with_mirrors_is_left_alone_and_says_so(tmp_path: Path) -> None:
    async with chain(1) as made, cache_of(made, tmp_path) as cache:
        place = cache.upstreams.resolve(TARGET)
        *_, registry = place.client.sources
        assert registry.client.breaker is not None
        registry.client.breaker.blame("it failed 5 times in a row", 30)
        made.mirrors[0].manifests.clear()
        with pytest.raises(SourceError, match=r"not asked for another 30 s: it failed 5 times"):
            await cache.manifest(TARGET, "1")
