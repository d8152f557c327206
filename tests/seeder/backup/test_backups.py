"""Tags go to a backup by the rules, come back from it, and nothing that is private gets there unasked."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX
from tests.seeder.sync.sites import Registry, SyncSite, until_quiet, until_told
from tests.support.registry import PASSWORD, USERNAME
from tests.support.waiting import until

LAYER = os.urandom(300_000)
TEAM: dict[str, Any] = {"repositories": ["team/*"], "to": ["vault"]}


@pytest.fixture
async def vault() -> AsyncIterator[Registry]:
    async with Registry() as registry:
        yield registry


@pytest.fixture
def bj(tmp_path: Path, vault: Registry) -> SyncSite:
    """It has the backup."""
    site = SyncSite(tmp_path, "bj")
    site.rules = [TEAM]
    site.tables = {"backups": {"vault": {"registry": vault.url, "prefix": "of/bj"}}}
    return site


@pytest.fixture
def sh(tmp_path: Path, bj: SyncSite) -> SyncSite:
    """What is pushed there comes to bj."""
    site = SyncSite(tmp_path, "sh")
    site.join(bj)
    bj.join(site)
    site.rules = [{**TEAM, "to": ["bj"]}]
    return site


def means(vault: Registry, repository: str, tag: str) -> Digest | None:
    found = vault.manifests.get((f"of/bj/local/{repository}", tag))
    return Digest.of(found[1]) if found is not None else None


async def until_means(vault: Registry, repository: str, tag: str, digest: Digest | None) -> None:
    await until(lambda: means(vault, repository, tag) == digest, f"the backup has {repository}:{tag} as {digest}")


async def lose_all(site: SyncSite) -> None:
    """The site's store, and its registry."""
    await site.stop_seeder()
    await site.stop_proxy()
    await site.stop_registry()
    site.wipe()
    await site.start_seeder()
    await site.start_proxy()


async def test_a_covered_tag_goes_there_with_all_its_blobs_and_moves_and_goes(bj: SyncSite, vault: Registry) -> None:
    bj.rules = [{**TEAM, "delete": True}]
    bj.registry.add_image("other/app", "1", b"other")
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj:
        await until_means(vault, "team/app", "1", digest)
        assert vault.blobs == {each: body for each, body in bj.registry.blobs.items() if each.hex in bj.blobs}
        await until_quiet([bj])
        (backup,) = (await bj.status()).destinations
        assert (backup.site, backup.is_backup, backup.waiting, backup.failed, backup.error) == ("vault", True, 0, 0, "")
        moved = bj.registry.add_image("team/app", "1", b"moved")
        (line,) = (await bj.plan()).lines
        assert (line.site, line.action, line.digest, line.blobs) == ("vault", "move", moved, 2)
        await bj.notify("team/app", "1")
        await until_means(vault, "team/app", "1", moved)
        bj.registry.delete_tag("team/app", "1")
        await bj.run()
        await until_means(vault, "team/app", "1", None)
        await until_quiet([bj])


async def test_a_blob_is_sent_once_and_mounted_elsewhere_and_signatures_go_along(bj: SyncSite, vault: Registry) -> None:
    digest = bj.registry.add_image("team/app", "1", LAYER)
    bj.registry.add_image("team/copy", "1", LAYER)
    tag = f"sha256-{digest.hex}.sig"
    signature = bj.registry.add_image("team/app", tag, b"signature")
    async with bj:
        await until_means(vault, "team/copy", "1", digest)
        await until_means(vault, "team/app", "1", digest)
        await until_means(vault, "team/app", tag, signature)
        assert vault.requests["PUT upload"] == len(vault.blobs) == 4


async def test_a_backup_that_was_away_is_sent_all_of_it_afterwards(bj: SyncSite, vault: Registry) -> None:
    async with bj:
        await until_quiet([bj])
        vault.auth = "basic"
        digests = {f"{number}": bj.registry.add_image("team/app", f"{number}", b"%d" % number) for number in range(5)}
        await bj.run()

        async def is_told() -> bool:
            return "check the credentials" in (await bj.status()).destinations[0].error

        await until(is_told, "the status says that the backup fails")
        vault.auth = None
        for tag, digest in digests.items():
            await until_means(vault, "team/app", tag, digest)
        await until_quiet([bj])
        vault.delete_tag("of/bj/local/team/app", "3")
        await bj.run()  # what the backup has lost is sent again
        await until_means(vault, "team/app", "3", digests["3"])


async def test_a_seeder_that_is_restarted_goes_on(bj: SyncSite, vault: Registry) -> None:
    vault.auth = "basic"  # nothing goes
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj:

        async def is_tried() -> bool:
            return any(task.to == "vault" and task.attempts for task in (await bj.status()).queue)

        await until(is_tried, "it is tried")
        await bj.stop_seeder()
        vault.auth = None
        await bj.start_seeder()
        await until_means(vault, "team/app", "1", digest)


def add_index(registry: Registry, repository: str, tag: str, child: Digest) -> Digest:
    """Of one image that is there."""
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(child),
        "size": len(registry.manifests[repository, str(child)][1]),
    }
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    return registry.add_manifest(repository, tag, body, OCI_INDEX)


async def test_an_index_goes_with_its_children_and_one_that_is_not_whole_is_told(bj: SyncSite, vault: Registry) -> None:
    child = bj.registry.add_image("team/app", "child", LAYER)
    bj.registry.delete_tag("team/app", "child")
    digest = add_index(bj.registry, "team/app", "1", child)
    async with bj:
        await until_means(vault, "team/app", "1", digest)
        assert means(vault, "team/app", str(child)) == child


async def test_what_came_from_another_site_is_backed_up_as_the_rule_says(
    bj: SyncSite, sh: SyncSite, vault: Registry
) -> None:
    bj.rules = [{**TEAM, "tags": {"match": ["v*"]}}]
    async with bj, sh:
        await until_quiet([bj, sh])
        digest = sh.registry.add_image("team/app", "v1", LAYER)
        signature = sh.registry.add_image("team/app", f"sha256-{digest.hex}.sig", b"signature")
        sh.registry.add_image("team/app", "test", b"test")
        for tag in ("v1", "test", f"sha256-{digest.hex}.sig"):
            await sh.notify("team/app", tag)
        await until_means(vault, "team/app", "v1", digest)
        await until_means(vault, "team/app", f"sha256-{digest.hex}.sig", signature)
        await until_told(bj, "team/app", "test", Digest.of(sh.registry.manifests["team/app", "test"][1]))
        await until_quiet([bj, sh])
        assert means(vault, "team/app", "test") is None


async def test_of_what_came_from_another_site_the_newest_is_kept_and_the_others_go(
    bj: SyncSite, sh: SyncSite, vault: Registry
) -> None:
    bj.rules = [{**TEAM, "delete": True, "tags": {"semver": "*", "newest": 1}}]
    first = sh.registry.add_image("team/app", "1.0.0", LAYER)
    async with bj, sh:
        await until_means(vault, "team/app", "1.0.0", first)
        second = sh.registry.add_image("team/app", "1.1.0", b"second")
        await sh.notify("team/app", "1.1.0")
        await until_means(vault, "team/app", "1.1.0", second)
        await until_means(vault, "team/app", "1.0.0", None)
        assert await bj.told("team/app", "1.0.0") == first


async def test_a_registry_that_deletes_by_digest_only_keeps_a_tag_while_another_needs_what_it_means(
    bj: SyncSite, vault: Registry
) -> None:
    vault.deletes_tags = False
    bj.rules = [{**TEAM, "delete": True}]
    digest = bj.registry.add_image("team/app", "1", LAYER)
    bj.registry.add_image("team/app", "same", LAYER)
    async with bj:
        await until_means(vault, "team/app", "1", digest)
        await until_means(vault, "team/app", "same", digest)
        await until_quiet([bj])
        bj.registry.delete_tag("team/app", "1")
        await bj.run()

        async def is_told(why: str) -> bool:
            return any(why in task.error for task in (await bj.status()).queue)

        await until(lambda: is_told("team/app:same means the same"), "the status says why it stays")
        assert means(vault, "team/app", "same") == digest
        repository = "of/bj/local/team/app"
        vault.manifests[repository, "of-another-site"] = vault.manifests[repository, "same"]
        bj.registry.delete_tag("team/app", "same")
        await bj.run()
        await until(lambda: is_told("team/app:of-another-site means the same"), "the status says why both stay")
        assert means(vault, "team/app", "of-another-site") == digest
        del vault.manifests[repository, "of-another-site"]
        add_index(vault, repository, "index", digest)
        await bj.run()
        await until(lambda: is_told("team/app:index means the same as same, or an index with it"), "an index has it")
        assert vault.manifests[repository, str(digest)]
        del vault.manifests[repository, "index"]
        await bj.run()
        await until_means(vault, "team/app", "same", None)
        await until_quiet([bj])


async def test_a_pull_whose_registry_is_gone_is_served_from_the_backup_and_restore_rebuilds_the_store(
    bj: SyncSite, vault: Registry
) -> None:
    digest = bj.registry.add_image("team/app", "1", LAYER)
    other = bj.registry.add_image("team/other", "1", b"other")
    async with bj:
        await until_means(vault, "team/app", "1", digest)
        await until_means(vault, "team/other", "1", other)
        await until_quiet([bj])
        await lose_all(bj)
        await until_told(bj, "team/app", "1", digest)
        assert bj.blobs == set()
        plan = await bj.restore("vault", is_dry=True)
        assert [(line.name, line.action) for line in plan.lines] == [
            ("local/team/app", "set"),
            ("local/team/other", "set"),
        ]
        assert bj.blobs == set()
        part = await bj.restore("vault", "local/team/other")
        assert len(part.lines) == 1
        await bj.until_restored("vault")
        assert len(bj.blobs) == 2
        await bj.restore("vault")
        await bj.until_restored("vault")
        assert bj.blobs == {each.hex for each in vault.blobs}
        assert [line.action for line in (await bj.restore("vault")).lines] == ["here", "here"]
        assert await bj.told("team/app", "1") == digest


async def test_after_the_database_is_lost_too_any_sites_move_is_newer_than_what_was_restored(
    bj: SyncSite, sh: SyncSite, vault: Registry
) -> None:
    first = sh.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:
        await until_means(vault, "team/app", "1", first)
        await until_quiet([bj, sh])
        await sh.stop_seeder()
        await sh.stop_proxy()
        await bj.stop_seeder()
        bj.forget()
        await bj.start_seeder()
        await lose_all(bj)
        await bj.restore("vault")
        await bj.until_restored("vault")
        assert await bj.told("team/app", "1") == first
        moved = sh.registry.add_image("team/app", "1", b"moved")
        await sh.start_proxy()
        await sh.start_seeder()
        await bj.stop_proxy()
        await bj.start_proxy()  # it has not found sh gone, so it asks at once
        await until_told(bj, "team/app", "1", moved)
        await until_means(vault, "team/app", "1", moved)
        assert (await bj.status()).conflicts == ()


async def test_what_is_newer_here_or_was_deleted_here_is_left_alone(bj: SyncSite, vault: Registry) -> None:
    bj.rules = [{**TEAM, "to": ["bj"], "delete": True}]
    bj.registry.add_image("team/app", "moved", LAYER)
    bj.registry.add_image("team/app", "gone", LAYER)
    for tag in ("moved", "gone"):
        vault.add_image("of/bj/local/team/app", tag, b"of the backup")
    async with bj:
        await until_quiet([bj])
        bj.registry.delete_tag("team/app", "gone")
        await bj.run()
        await until_quiet([bj])
        plan = await bj.restore("vault")
        assert {line.tag: line.action for line in plan.lines} == {"moved": "newer", "gone": "deleted"}


async def test_a_tag_whose_blob_the_backup_has_lost_is_told_and_not_set(bj: SyncSite, vault: Registry) -> None:
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj:
        await until_means(vault, "team/app", "1", digest)
        await until_quiet([bj])
        await lose_all(bj)
        del vault.blobs[Digest.of(LAYER)]
        await bj.restore("vault")

        async def is_told() -> bool:
            status = json.loads(await bj.ask("POST", "restores/status", json={"source": "vault"}))
            return status["stuck"] == 1 and str(Digest.of(LAYER)) in status["errors"][0]

        await until(is_told, "the status names the blob")
        assert [line.action for line in (await bj.restore("vault", is_dry=True)).lines] == ["set"]


@pytest.mark.parametrize("is_meant", [False, True])
async def test_private_images_go_there_only_if_that_is_meant_and_come_back_private(
    bj: SyncSite, vault: Registry, tmp_path: Path, is_meant: bool
) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    bj.registry.auth = "basic"
    bj.upstream_settings = {"username": USERNAME, "password_file": tmp_path / "password"}
    bj.tables = {"backups": {"vault": {"registry": vault.url, "prefix": "of/bj", "private": is_meant}}}
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj:
        if not is_meant:

            async def is_told() -> bool:
                return any("set backups.vault.private = true" in task.error for task in (await bj.status()).queue)

            await until(is_told, "the status says why it does not go")
            assert not vault.blobs
            assert not vault.manifests
            return
        await until_means(vault, "team/app", "1", digest)
        await until_quiet([bj])
        notes = bj.private_notes
        assert notes
        await lose_all(bj)
        await bj.restore("vault")
        await bj.until_restored("vault")
        assert bj.private_notes == notes
        assert not await bj.gives_siblings(Digest.of(LAYER))


async def test_the_logins_of_backups_are_for_the_site_token(bj: SyncSite, vault: Registry, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "token").write_text("site-secret")
    login = {"username": USERNAME, "password_file": tmp_path / "password"}
    bj.tables = {"backups": {"vault": {"registry": vault.url, **login}}}
    bj.seeder_settings = {"site_token_file": tmp_path / "token"}
    async with bj:
        token = {"Authorization": "Bearer site-secret"}
        assert await bj.statuses_of("GET", "backups", [{}, token], {}) == [401, 200]


async def test_a_second_seeder_host_is_a_backup_as_well(tmp_path: Path) -> None:
    bj, host = SyncSite(tmp_path, "bj"), SyncSite(tmp_path, "host2")
    bj.join(host)
    host.join(bj)
    bj.rules = [{**TEAM, "to": ["host2"]}]
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj, host:
        await until_told(host, "team/app", "1", digest)
        await until_quiet([bj, host])
        await lose_all(bj)
        await until_told(bj, "team/app", "1", digest)  # the sibling tells the tag that sync keeps there
        await bj.restore("host2")
        await bj.until_restored("host2")
        assert bj.blobs == host.blobs
        assert [line.action for line in (await bj.restore("host2")).lines] == ["here"]


async def test_restoring_from_nowhere_is_refused_with_the_names_there_are(bj: SyncSite) -> None:
    async with bj:
        order = [{"source": "attic"}, {"source": "vault", "repositories": ["/(/"]}, {}]
        answers = [await bj.statuses_of("POST", "restores", [{}], body) for body in order]
        assert answers == [[404], [400], [400]]
