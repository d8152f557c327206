"""A backup as it is in production: docker-registry as the target, real clients that pull when all else is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagedist.demo.image import build
from imagedist.demo.layout import BuiltImage
from tests.support.waiting import wait_until
from tests.sync.sites import Backup, Site, blob_bytes

pytestmark = pytest.mark.e2e("docker-registry", "skopeo")

TO_SH = '[[sync]]\nfrom = "local"\nrepositories = ["team/*"]\nto = ["sh"]\n'
TO_VAULT = '[[sync]]\nfrom = "local"\nrepositories = ["team/*"]\nto = ["vault"]\n'


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    return build(tmp_path_factory.mktemp("image") / "layout", size_bytes=3_000_000, name="team/app:v1")


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Backup]:
    backup = Backup(tmp_path)
    backup.start()
    yield backup
    backup.stop()


@pytest.fixture
def sites(tmp_path: Path, vault: Backup) -> Iterator[tuple[Site, Site]]:
    """What is pushed at bj comes to sh, and sh has a backup."""
    bj, sh = Site(tmp_path, "bj"), Site(tmp_path, "sh")
    bj.join(sh)
    sh.join(bj)
    bj.rules = TO_SH
    sh.rules = TO_VAULT + vault.table(prefix='"sites/sh"')
    yield bj, sh
    for site in (bj, sh):
        site.stop()


def test_pulls_are_served_from_the_backup_and_restore_rebuilds_the_store_from_it(
    sites: tuple[Site, Site], vault: Backup, image: BuiltImage, tmp_path: Path
) -> None:
    bj, sh = sites
    for site in sites:
        site.start()
    for name in ("team/app:v1", "team/copy:v1"):
        bj.push(image, name)
    for name in ("team/app:v1", "team/copy:v1"):
        wait_until(lambda name=name: vault.has(f"sites/sh/local/{name}"), f"the backup has {name}")
    wait_until(lambda: not sh.status().waiting, "sh is quiet")
    assert vault.log.count("mount=sha256") == len({*image.image.manifest.layers, image.image.manifest.config})
    bj.stop()
    sh.stop_registry()
    before = sh.pull("team/app:v1", tmp_path / "before")
    assert before.returncode == 0, before.stderr
    sh.seeder.stop()
    sh.proxy.stop()
    sh.wipe()
    sh.seeder.start()
    sh.proxy.start()
    pulled = sh.pull("team/app:v1", tmp_path / "pulled")
    assert pulled.returncode == 0, pulled.stderr
    received = sh.received_bytes()
    assert received.keys() == {"backup"}
    place = f"backup:{vault.url}/sites/sh"
    lacking = sh.verify(place)
    assert lacking.returncode == 1, lacking.stdout + lacking.stderr
    planned = sh.imagedist("restore", "vault", "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    assert [line["action"] for line in json.loads(planned.stdout)["lines"]] == ["set", "set"]
    done = sh.imagedist("restore", "vault")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 tags of vault are here" in done.stdout
    same = sh.verify(place)
    assert same.returncode == 0, same.stdout + same.stderr
    assert sum(sh.received_bytes().values()) - blob_bytes(image) < 50_000  # each blob came once
    again = sh.imagedist("restore", "vault", "--json")
    assert again.returncode == 0
    assert {line["action"] for line in json.loads(again.stdout)["lines"]} == {"here"}
    vault.stop()
    alone = sh.pull("team/copy:v1", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr


def test_a_seeder_that_is_killed_while_it_sends_goes_on_and_the_tag_comes_last(
    tmp_path: Path, vault: Backup, image: BuiltImage
) -> None:
    bj = Site(tmp_path, "bj")
    bj.rules = TO_VAULT + vault.table(bandwidth='"512KiB/s"')
    try:
        bj.start()
        bj.push(image, "team/app:v1")
        wait_until(lambda: any(task.to and task.bytes_done for task in bj.status().queue), "some of it is sent")
        bj.seeder.kill()
        assert not vault.has("local/team/app:v1")
        bj.seeder.start()
        wait_until(lambda: vault.has("local/team/app:v1"), "the backup has the tag")
        wait_until(lambda: not bj.status().waiting, "bj is quiet")
        same = bj.verify(f"backup:{vault.url}")
        assert same.returncode == 0, same.stdout + same.stderr
    finally:
        bj.stop()
