"""Three sites as they run in production: docker-registry notifies, seeders follow, real clients push and pull."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from imagedist.demo.image import build
from imagedist.demo.layout import BuiltImage
from tests.support.waiting import wait_until
from tests.sync.sites import Site, blob_bytes

pytestmark = pytest.mark.e2e("docker-registry", "skopeo")

RULE = """
[[sync]]
from = "local"
repositories = ["team/*"]
tags = { match = ["v*"] }
to = ["sh", "gz"]
"""
_CAP = '[transfer]\nbandwidth = "500KiB/s"\n'


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    return build(tmp_path_factory.mktemp("image") / "layout", size_bytes=3_000_000, name="team/app:v1")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    return build(tmp_path_factory.mktemp("other") / "layout", size_bytes=1_000_000, name="team/other:v1")


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site, Site]]:
    bj, sh, gz = (Site(tmp_path, name) for name in ("bj", "sh", "gz"))
    bj.join(sh, gz)
    sh.join(bj, gz)
    gz.join(bj, sh)
    bj.rules = RULE
    yield bj, sh, gz
    for site in (bj, sh, gz):
        site.stop()


def test_a_push_appears_at_the_other_sites_and_stays_there_when_the_first_is_gone(
    sites: tuple[Site, Site, Site], image: BuiltImage, other: BuiltImage, tmp_path: Path
) -> None:
    bj, sh, gz = sites
    for site in sites:
        site.start()
    wait_until(lambda: not bj.status().is_scanning, "bj has looked through its registry")
    bj.push(other, "private/other:v1")
    bj.push(other, "team/app:test")
    bj.push(image, "team/app:v1")
    for site in (sh, gz):
        wait_until(lambda site=site: site.has("team/app:v1"), f"{site.name} has the tag")
        assert not site.has("private/other:v1")
        assert not site.has("team/app:test")
        received = site.received_bytes()
        assert sum(received.values()) - manifest_bytes(image) == blob_bytes(image)
        assert received.keys() == {"sibling"}
    done = bj.imagedist("sync", "run", "--wait")
    assert done.returncode == 0, done.stderr
    bj.stop()
    pulled = sh.pull("team/app:v1", tmp_path / "pulled")
    assert pulled.returncode == 0, pulled.stderr
    wait_until(lambda: "site bj is not followed: " in gz.imagedist("sync", "status").stderr, "gz says that bj is gone")
    assert gz.imagedist("sync", "status").returncode == 1


def manifest_bytes(built: BuiltImage) -> int:
    """Of what a sibling gives besides blobs."""
    return len(built.image.manifest_bytes)


def test_seeder_and_proxy_are_killed_in_the_middle_and_no_byte_comes_twice(
    sites: tuple[Site, Site, Site], image: BuiltImage
) -> None:
    bj, sh, _ = sites
    bj.rules = RULE.replace(', "gz"', "")
    sh.rules = _CAP
    bj.start()
    bj.push(image, "team/app:v1")
    sh.start()
    partials = sh.directory / "blobs" / "partial"

    def present_bytes() -> int:
        """Of blobs, arrived or on their way."""
        total = 0
        for path in (*partials.rglob("*"), *(sh.directory / "blobs" / "blobs").rglob("*")):
            with suppress(FileNotFoundError):  # it has just arrived
                total += path.stat().st_size if path.is_file() and path.suffix != ".size" else 0
        return total

    wait_until(lambda: present_bytes() > 500_000, "some of it is there")
    sh.seeder.kill()
    sh.proxy.kill()
    before = present_bytes()
    assert 0 < before < blob_bytes(image)
    (sh.directory / "seeder.toml").write_text((sh.directory / "seeder.toml").read_text().replace(_CAP, ""))
    sh.seeder.start()
    assert not (sh.status().waiting == 0 and sh.status().sequence)
    sh.proxy.start()
    wait_until(lambda: sh.has("team/app:v1") and sh.status().waiting == 0, "sh has the tag")
    received = sum(sh.received_bytes().values())
    assert received <= blob_bytes(image) - before + manifest_bytes(image)


def test_the_commands_plan_run_and_tell(sites: tuple[Site, Site, Site], image: BuiltImage, other: BuiltImage) -> None:
    bj, sh, gz = sites
    for site in sites:
        site.start()
    wait_until(lambda: not bj.status().is_scanning, "bj has looked through its registry")
    bj.seeder.stop()  # so that nothing crosses by a notification
    bj.push(image, "team/app:v1")
    bj.push(other, "team/app:v2")
    text = (bj.directory / "seeder.toml").read_text()
    (bj.directory / "seeder.toml").write_text(text.replace('to = ["sh", "gz"]', 'to = ["sh"]'))
    sh.seeder.stop()  # bj looks through its registry at start: sh shall not take it yet
    bj.seeder.start()
    wait_until(lambda: bj.status().sequence == 2 and not bj.status().waiting, "bj has both")
    away = bj.imagedist("sync", "plan")
    assert away.returncode == 1
    assert "to sh: " in away.stderr
    sh.proxy.stop()
    sh.seeder.start()
    refused = sh.imagedist("sync", "run", as_site=gz)
    assert refused.returncode == 1
    assert "expected the site token" in refused.stderr
    sh.proxy.start()
    done = bj.imagedist("sync", "run", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert (status["failed"], [each["site"] for each in status["destinations"]]) == (0, ["sh"])
    planned = bj.imagedist("sync", "plan", "--json")
    assert json.loads(planned.stdout) == {"format": 1, "lines": [], "errors": []}
    assert sh.has("team/app:v1")
    assert sh.has("team/app:v2")
    shown = bj.imagedist("sync", "status")
    assert shown.returncode == 0, shown.stderr
    assert "local/team/*" in shown.stdout


def test_the_first_sites_seeder_is_killed_in_the_middle_and_the_sync_completes(
    sites: tuple[Site, Site, Site], image: BuiltImage
) -> None:
    bj, sh, _ = sites
    bj.rules = RULE.replace(', "gz"', "")
    sh.rules = _CAP
    bj.start()
    bj.push(image, "team/app:v1")
    sh.start()
    wait_until(lambda: sum(sh.received_bytes().values()) > 500_000, "some of it is there")
    bj.seeder.kill()
    before = sum(sh.received_bytes().values())
    assert before < blob_bytes(image)
    bj.seeder.start()
    wait_until(lambda: sh.has("team/app:v1") and sh.status().waiting == 0, "sh has the tag")
    twice = sum(sh.received_bytes().values()) - blob_bytes(image) - manifest_bytes(image)
    assert 0 <= twice <= max(layer.size_bytes for layer in image.image.manifest.layers)  # of one that broke off
    assert bj.status().sequence == 1
    assert bj.received_bytes() == {"upstream": blob_bytes(image)}


def test_a_miss_is_served_by_the_cheaper_sibling_and_when_that_is_dead_by_the_next(
    tmp_path: Path, image: BuiltImage, other: BuiltImage
) -> None:
    near, far, asking = (Site(tmp_path, name) for name in ("near", "far", "asking"))
    asking.join(near, cost=1)
    asking.join(far, cost=20)
    try:
        for site in (near, far, asking):
            site.start()
            for built, name in ((image, "team/app:v1"), (other, "team/other:v1")):
                site.push(built, name)
        for site in (near, far):
            for name in ("app", "other"):
                assert site.pull(f"team/{name}:v1", tmp_path / f"{site.name}-{name}").returncode == 0
        pulled = asking.pull("team/app:v1", tmp_path / "first")
        assert pulled.returncode == 0, pulled.stderr
        assert asking.received_bytes() == {"sibling": blob_bytes(image)}
        wait_until(near.gave_siblings, "the log of the near site has it")
        assert not far.gave_siblings()
        near.proxy.stop()
        pulled = asking.pull("team/other:v1", tmp_path / "second")
        assert pulled.returncode == 0, pulled.stderr
        assert asking.received_bytes() == {"sibling": blob_bytes(image, other)}
        wait_until(far.gave_siblings, "the log of the far site has it")
    finally:
        for site in (near, far, asking):
            site.stop()
