"""Two places compared: every difference is told with its place, nothing else is, and nothing is fetched twice."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX
from imagedist.verify.compare import Comparison, Difference
from imagedist.verify.place import open_place
from tests.seeder.sync.sites import Registry, SyncSite, until_quiet, until_told

LAYER = b"a layer" * 1000


@pytest.fixture
async def one() -> AsyncIterator[Registry]:
    async with Registry() as registry:
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[Registry]:
    async with Registry() as registry:
        yield registry


async def compared(first: str, second: str, *named: str, is_deep: bool = False) -> list[Difference]:
    places = [open_place(text, None) for text in (first, second)]
    comparison = Comparison(*places, lambda name: True, is_deep=is_deep)
    try:
        return [each async for each in comparison.differences(named)]
    finally:
        for place in places:
            await place.close()


async def test_places_with_the_same_images_do_not_differ(one: Registry, other: Registry) -> None:
    for registry in (one, other):
        registry.add_image("team/app", "1", LAYER)
    assert await compared(one.url, other.url, is_deep=True) == []
    assert set(one.blob_gets.values()) == {1}


async def test_every_difference_is_told_with_its_place(one: Registry, other: Registry) -> None:
    for registry in (one, other):
        for tag in ("same", "lacks-layer", "lacks-manifest"):
            registry.add_image("team/app", tag, tag.encode())
    other.blobs.pop(Digest.of(b"lacks-layer"))
    lost = Digest.of(one.manifests["team/app", "lacks-manifest"][1])
    del other.manifests["team/app", str(lost)]
    one.add_image("team/app", "moved", b"old")
    moved = other.add_image("team/app", "moved", b"new")
    one.add_image("team/gone", "1", b"gone")
    found = [(each.kind, each.place, each.name) for each in await compared(one.url, other.url)]
    assert found == [
        ("blob-missing", other.url, "team/app:lacks-layer"),
        ("manifest-missing", other.url, "team/app:lacks-manifest"),
        ("tag-differs", other.url, "team/app:moved"),
        ("tag-missing", other.url, "team/gone:1"),
    ]
    (differs,) = [each for each in await compared(one.url, other.url, "team/app") if each.kind == "tag-differs"]
    assert str(moved) in differs.what


async def test_wrong_bytes_are_found_when_every_blob_is_read(one: Registry, other: Registry) -> None:
    for registry in (one, other):
        registry.add_image("team/app", "1", LAYER)
    other.corrupt = True
    assert await compared(one.url, other.url) == []
    kinds = [(each.kind, each.place) for each in await compared(one.url, other.url, is_deep=True)]
    assert kinds == [("wrong-bytes", other.url)] * 2


async def test_children_of_an_index_are_compared_as_well(one: Registry, other: Registry) -> None:
    for registry in (one, other):
        child = registry.add_image("team/app", "child", LAYER)
        registry.delete_tag("team/app", "child")
        entry = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": str(child),
            "size": len(registry.manifests["team/app", str(child)][1]),
        }
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
        registry.add_manifest("team/app", "1", index, OCI_INDEX)
    other.blobs.pop(Digest.of(LAYER))
    assert [each.kind for each in await compared(one.url, other.url)] == ["blob-missing"]


async def test_a_site_is_what_it_holds_itself_and_the_command_says_so(tmp_path: Path) -> None:
    bj, sh = SyncSite(tmp_path, "bj"), SyncSite(tmp_path, "sh")
    bj.join(sh)
    sh.join(bj)
    bj.rules = [{"repositories": ["team/*"], "to": ["sh"]}]
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/app", "1", digest)
        await until_quiet([bj, sh])
        registry = f"local={bj.registry.url}"
        assert await verify(registry, f"site:{sh.proxy_url}") == (0, [])
        assert await verify(f"site:{bj.proxy_url}", f"site:{sh.proxy_url}", "--deep") == (0, [])
        sh.remove_blob(Digest.of(LAYER))
        code, found = await verify(f"site:{bj.proxy_url}", f"site:{sh.proxy_url}")
        assert (code, found) == (1, [("blob-missing", "local/team/app:1")])
        bj.registry.add_image("other/app", "1", b"not covered")
        code, found = await verify(registry, f"site:{bj.proxy_url}", "--repository", "local/team/*")
        assert (code, found) == (0, [])
        code, found = await verify(registry, f"site:{bj.proxy_url}")
        assert (code, found) == (1, [("tag-missing", "local/other/app:1")])


async def test_sites_and_backups_may_be_given_by_the_names_that_the_seeder_knows(tmp_path: Path, one: Registry) -> None:
    bj, sh = SyncSite(tmp_path, "bj"), SyncSite(tmp_path, "sh")
    bj.join(sh)
    sh.join(bj)
    bj.rules = [{"repositories": ["team/*"], "to": ["sh"]}]
    (tmp_path / "password").write_text("secret")
    login = {"username": "me", "password_file": tmp_path / "password"}
    bj.tables = {"backups": {"vault": {"registry": one.url, "prefix": "sites/bj", **login}}}
    digest = bj.registry.add_image("team/app", "1", LAYER)
    one.add_image("sites/bj/local/team/app", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/app", "1", digest)
        await until_quiet([bj, sh])
        sh.remove_blob(Digest.of(LAYER))
        asked = ("--seeder", bj.seeder_url)
        assert await verify("bj", "sh", *asked) == (1, [("blob-missing", "local/team/app:1")])
        assert await verify("vault", "bj", *asked, "--repository", "local/team/app") == (0, [])
        code, complaint = await refused("vault", "bj", *asked, "--repository", "local/tema/*")
        assert (code, "neither place has a tag of local/tema/*" in complaint) == (1, True)
        code, complaint = await refused("bj", "nowhere", *asked)
        assert (code, "the site's seeder knows bj, sh, vault" in complaint) == (2, True)


async def refused(*arguments: str) -> tuple[int | None, str]:
    """The command's exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "imagedist", "verify", *arguments), stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    return process.returncode, complaint.decode()


async def verify(*arguments: str) -> tuple[int, list[tuple[str, str]]]:
    """The command's exit code, and kinds and names of what it found."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "imagedist", "verify", *arguments, "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await process.communicate()
    assert said, complaints
    found = json.loads(said)["differences"]
    assert process.returncode is not None
    return process.returncode, [(each["kind"], each["name"]) for each in found]
