"""Tags cross between whole sites: by webhook, journal and hand; only what is missing, and the tag last."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX, OCI_MANIFEST
from tests.seeder.sync.sites import SyncSite, until_quiet, until_told
from tests.support.counts import count
from tests.support.waiting import until

LAYER = os.urandom(300_000)
TEAM: dict[str, Any] = {"repositories": ["team/*"], "to": ["sh"]}


@pytest.fixture
def bj(tmp_path: Path) -> SyncSite:
    return SyncSite(tmp_path, "bj")


@pytest.fixture
def sh(tmp_path: Path, bj: SyncSite) -> SyncSite:
    site = SyncSite(tmp_path, "sh")
    site.join(bj)
    bj.join(site)
    bj.rules = [TEAM]
    return site


def add_index(site: SyncSite, tag: str, platforms: list[str]) -> tuple[Digest, list[Digest]]:
    """An index with an image of random bytes for each platform."""
    children = [
        site.registry.add_image("team/app", f"child-{each.replace('/', '-')}", os.urandom(1000)) for each in platforms
    ]
    for each in platforms:
        site.registry.delete_tag("team/app", f"child-{each.replace('/', '-')}")
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": str(child),
            "size": len(site.registry.manifests["team/app", str(child)][1]),
            "platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True)),
        }
        for child, platform in zip(children, platforms, strict=True)
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    return site.registry.add_manifest("team/app", tag, body, OCI_INDEX), children


async def test_a_pushed_tag_that_a_rule_covers_appears_at_the_other_site_and_another_does_not(
    bj: SyncSite, sh: SyncSite
) -> None:
    bj.rules = [{**TEAM, "tags": {"semver": ">=1.2"}}]
    async with bj, sh:
        await until_quiet([bj, sh])
        covered = bj.registry.add_image("team/app", "1.2.0", LAYER)
        bj.registry.add_image("team/app", "1.1.0", os.urandom(1000))
        bj.registry.add_image("other/app", "1.2.0", os.urandom(1000))
        for repository, tag in (("team/app", "1.2.0"), ("team/app", "1.1.0"), ("other/app", "1.2.0")):
            await bj.notify(repository, tag)
        await until_told(sh, "team/app", "1.2.0", covered)
        await until_quiet([bj, sh])
        assert await sh.told("team/app", "1.1.0") is None
        assert await sh.journal() == await bj.journal() == {"local/team/app:1.2.0": str(covered)}
        assert (await bj.status()).rules[0].tags == 1
        assert bj.registry.blob_gets.total() == 2  # into its own site, once
        assert sh.registry.blob_gets.total() == 0


async def test_what_was_pushed_while_the_seeder_was_down_crosses_when_it_starts(bj: SyncSite, sh: SyncSite) -> None:
    bj.registry.add_image("team/a", "1", LAYER)
    digest = bj.registry.add_image("team/b", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/b", "1", digest)
        await until_quiet([bj, sh])
        assert len(await sh.journal()) == 2
        assert sh.blobs == bj.blobs


async def test_a_moved_tag_moves_and_only_its_new_blobs_cross(bj: SyncSite, sh: SyncSite) -> None:
    bj.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:
        await until_quiet([bj, sh])
        before = sh.blobs
        moved = bj.registry.add_image("team/app", "1", b"small")
        (line,) = (await bj.plan()).lines
        assert (line.site, line.action, line.digest) == ("sh", "move", moved)
        await bj.notify("team/app", "1")
        await until_told(sh, "team/app", "1", moved)
        new = sh.blobs - before
        sizes = [len(content) for digest, content in bj.registry.blobs.items() if digest.hex in new]
        assert (line.blobs, line.bytes) == (len(new), sum(sizes))


async def test_a_plan_moves_nothing(bj: SyncSite, sh: SyncSite) -> None:
    async with bj, sh:
        await until_quiet([bj, sh])
        digest = bj.registry.add_image("team/app", "1", LAYER)
        bj.registry.add_image("team/copy", "1", LAYER)
        first, second = (await bj.plan()).lines
        assert (first.name, first.tag, first.action, first.digest) == ("local/team/app", "1", "set", digest)
        assert first.bytes == sum(map(len, bj.registry.blobs.values()))
        assert (second.blobs, second.bytes) == (0, 0)  # the same blobs cross once
        assert bj.blobs == sh.blobs == set()
        assert bj.registry.blob_gets.total() == 0
        assert await bj.journal() == {}


@pytest.mark.parametrize("deletes", [False, True])
async def test_a_deleted_tag_is_deleted_if_the_rule_says_so(bj: SyncSite, sh: SyncSite, deletes: bool) -> None:
    bj.rules = [{**TEAM, "delete": deletes}]
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/app", "1", digest)
        await until_quiet([bj, sh])
        bj.registry.delete_tag("team/app", "1")
        assert [line.action for line in (await bj.plan()).lines] == (["delete"] if deletes else [])
        await bj.run()
        await until_quiet([bj, sh])
        assert await sh.told("team/app", "1") == (None if deletes else digest)
        assert (await sh.journal())["local/team/app:1"] == (None if deletes else str(digest))


async def test_that_most_tags_are_gone_is_held_back_until_somebody_means_it(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "delete": True}]
    tags = [f"{number}" for number in range(12)]
    for tag in tags:
        bj.registry.add_image("team/app", tag, b"layer")
    async with bj, sh:
        await until_quiet([bj, sh])
        for tag in tags[1:]:
            bj.registry.delete_tag("team/app", tag)
        await bj.run()
        await until_quiet([bj, sh])
        (rule,) = (await bj.status()).rules
        assert "11 of the 12 tags of local/team/app are gone" in rule.error
        assert None not in (await sh.journal()).values()
        await bj.ask("POST", "syncs/run?deletions=1")
        await until_quiet([bj, sh])
        assert (await bj.status()).rules[0].error == ""
        assert [name for name, digest in (await sh.journal()).items() if digest is not None] == ["local/team/app:0"]


async def test_a_tag_that_falls_out_of_the_newest_goes_where_deletion_is_wanted(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "delete": True, "tags": {"semver": "*", "newest": 2}}]
    for version in ("1.0.0", "1.1.0"):
        bj.registry.add_image("team/app", version, version.encode())
    async with bj, sh:
        await until_quiet([bj, sh])
        newest = bj.registry.add_image("team/app", "1.10.0", b"1.10.0")
        await bj.notify("team/app", "1.10.0")
        await until_told(sh, "team/app", "1.10.0", newest)
        await until_told(sh, "team/app", "1.0.0", None)
        assert await sh.told("team/app", "1.1.0") is not None


async def test_of_an_index_the_wanted_platforms_cross_and_its_digest_stays(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "platforms": ["linux/amd64"]}]
    digest, (amd64, arm64) = add_index(bj, "1", ["linux/amd64", "linux/arm64"])
    async with bj, sh:
        await until_told(sh, "team/app", "1", digest)
        await bj.stop_proxy()
        assert await sh.told("team/app", str(amd64)) == amd64
        assert await sh.told("team/app", str(arm64)) is None
        assert len(sh.blobs) == 2


async def test_an_index_without_the_wanted_platform_is_told_and_does_not_cross(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "platforms": ["linux/riscv64"]}]
    add_index(bj, "1", ["linux/amd64", "linux/arm64"])
    async with bj, sh:

        async def is_told() -> bool:
            return any(
                "has nothing for linux/riscv64; it has: linux/amd64, linux/arm64" in task.error
                for task in (await bj.status()).queue
            )

        await until(is_told, "the status says what is wrong")
        assert await sh.journal() == {}


async def test_signatures_go_along_with_what_they_are_about(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "tags": {"match": ["v*"]}}]
    async with bj, sh:
        await until_quiet([bj, sh])
        subject = bj.registry.add_image("team/app", "v1", LAYER)
        await bj.notify("team/app", "v1")
        await until_told(sh, "team/app", "v1", subject)
        tag = f"sha256-{subject.hex}.sig"
        signature = bj.registry.add_image("team/app", tag, b"signature")
        foreign = f"sha256-{'0' * 64}.sig"
        bj.registry.add_image("team/app", foreign, b"of something else")
        await bj.notify("team/app", foreign)
        await bj.notify("team/app", tag)
        await until_told(sh, "team/app", tag, signature)
        await until_quiet([bj, sh])
        assert await sh.told("team/app", foreign) is None


async def test_a_pull_at_the_other_site_needs_nothing_of_the_first_any_more(bj: SyncSite, sh: SyncSite) -> None:
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/app", "1", digest)
        await until_quiet([bj, sh])
        for stop in (bj.stop_seeder, bj.stop_proxy, bj.stop_registry):
            await stop()
        assert await sh.told("team/app", "1") == digest


async def test_sites_that_sync_to_each_other_come_to_rest(bj: SyncSite, sh: SyncSite) -> None:
    sh.rules = [{**TEAM, "to": ["bj"]}]
    one = bj.registry.add_image("team/app", "of-bj", b"bj")
    other = sh.registry.add_image("team/app", "of-sh", b"sh")
    async with bj, sh:
        await until_told(sh, "team/app", "of-bj", one)
        await until_told(bj, "team/app", "of-sh", other)
        await until_quiet([bj, sh])
        before = [(await site.status()).sequence for site in (bj, sh)]
        for site in (bj, sh):
            await site.run()
        await until_quiet([bj, sh])
        assert [(await site.status()).sequence for site in (bj, sh)] == before


async def test_a_conflict_is_settled_alike_everywhere_and_reported(bj: SyncSite, sh: SyncSite) -> None:
    sh.rules = [{**TEAM, "to": ["bj"]}]
    ours = bj.registry.add_image("team/app", "1", b"bj")
    theirs = sh.registry.add_image("team/app", "1", b"sh")
    async with bj, sh:
        await until_told(sh, "team/app", "1", ours)  # bj sorts first
        await until_quiet([bj, sh])
        assert await bj.told("team/app", "1") == ours
        reports = [*(await bj.status()).conflicts, *(await sh.status()).conflicts]
        assert reports
        for report in reports:
            assert (report.kept, report.kept_of) == (str(ours), "bj")
            assert (report.lost, report.lost_of) == (str(theirs), "sh")
        later = sh.registry.add_image("team/app", "1", b"sh again")
        await sh.notify("team/app", "1")
        await until_told(bj, "team/app", "1", later)  # it knew of bj's
        assert await sh.told("team/app", "1") == later


async def test_a_follower_that_was_away_catches_up(bj: SyncSite, sh: SyncSite) -> None:
    async with bj, sh:
        await until_quiet([bj, sh])
        await sh.stop_seeder()
        for number in range(20):
            bj.registry.add_image("team/app", f"{number}", b"%d" % number)
        await bj.run()

        async def has_all() -> bool:
            return len(await bj.journal()) == 20

        await until(has_all, "bj has them all")
        await sh.start_seeder()
        await until_quiet([bj, sh])
        assert await sh.journal() == await bj.journal()


@pytest.mark.prove
@pytest.mark.timeout(count(400, 1800))
async def test_a_journal_of_many_tags_is_caught_up_with_in_order_and_no_tag_comes_before_its_blobs(
    bj: SyncSite, sh: SyncSite
) -> None:
    tags, patience_seconds = [f"{number}" for number in range(count(60, 1000))], count(150, 600)
    sh.tables = {"transfer": {"images_at_once": 1}}  # so that they are done in the order in which they are begun
    first = bj.registry.add_image("team/first", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/first", "1", first)  # its proxy knows its sibling by now
        await until_quiet([bj, sh])
        await sh.stop_seeder()
        layers = {tag: b"layer of %s" % tag.encode() for tag in tags}
        for tag, layer in layers.items():
            bj.registry.add_image("team/app", tag, layer)
        await bj.run()

        async def has_all() -> bool:
            return (await bj.status()).sequence == 1 + len(tags)

        await until(has_all, "bj has them all", patience_seconds)
        order = list(await bj.journal())
        await sh.start_seeder()
        seen: list[str] = []

        async def is_caught_up() -> bool:
            told, here = list(await sh.journal()), sh.blobs
            for name in told[max(1, len(seen)) :]:
                assert Digest.of(layers[name.rpartition(":")[2]]).hex in here
            seen[:] = told
            return len(told) == 1 + len(tags)

        await until(is_caught_up, "sh has them all", patience_seconds)
        assert seen[1:] == order[1:]


async def test_a_sibling_that_was_made_anew_is_followed_from_its_beginning(bj: SyncSite, sh: SyncSite) -> None:
    bj.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:
        await until_quiet([bj, sh])
        await bj.stop_seeder()
        bj.forget()
        moved = bj.registry.add_image("team/app", "1", b"moved")
        await bj.start_seeder()
        await until_told(sh, "team/app", "1", moved)
        await until_quiet([bj, sh])
        assert (await sh.status()).conflicts == ()


async def test_a_blob_that_is_nowhere_sets_no_tag_until_it_is_there(bj: SyncSite, sh: SyncSite) -> None:
    digest = bj.registry.add_image("team/app", "1", LAYER)
    lost = bj.registry.blobs.pop(Digest.of(LAYER))
    async with bj, sh:

        async def is_told() -> bool:
            return any(str(Digest.of(LAYER)) in task.error for task in (await bj.status()).queue)

        await until(is_told, "the status names the blob")
        assert await bj.journal() == await sh.journal() == {}
        bj.registry.add_blob(lost)
        await bj.run()
        await until_told(sh, "team/app", "1", digest)


async def test_a_webhook_that_names_a_registry_of_no_rule_is_told_in_the_log(
    bj: SyncSite, sh: SyncSite, caplog: pytest.LogCaptureFixture
) -> None:
    async with bj, sh:
        await until_quiet([bj, sh])
        for _ in range(2):
            await bj.ask("POST", "syncs/webhook?from=locl", json={"events": []})
        await bj.ask("POST", "syncs/webhook?from=local", json={"events": []})
    said = [each.getMessage() for each in caplog.records if "webhook" in each.getMessage()]
    assert said == ["a webhook says from=locl, and no [[sync]] rule is of it: expected local"]


async def test_a_site_that_answers_for_anothers_name_is_not_believed(
    bj: SyncSite, sh: SyncSite, tmp_path: Path
) -> None:
    bj.registry.add_image("team/app", "1", LAYER)
    gz = SyncSite(tmp_path, "gz")
    gz.join_as("sh", bj)  # gz's file says that bj's seeder is sh's
    bj.rules = [{**TEAM, "to": ["gz"]}]
    gz.rules = [TEAM]
    bj.join(gz)
    async with bj, gz:

        async def is_told() -> bool:
            status = await gz.status()
            said = "is that of site 'bj', not 'sh': correct sites.sh.seeder"
            (follow,), (destination,) = status.follows, status.destinations
            return said in follow.error and said in destination.error

        await until(is_told, "the status says so")
        assert await gz.journal() == {}


async def test_a_registry_that_does_not_tell_its_repositories_is_told_with_the_remedy(
    bj: SyncSite, sh: SyncSite
) -> None:
    bj.registry.has_catalog = False
    bj.rules = [TEAM, {**TEAM, "repositories": ["team/named"]}]
    digest = bj.registry.add_image("team/named", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/named", "1", digest)
        await until_quiet([bj, sh])
        first, second = (await bj.status()).rules
        assert "name them in full in sync.0.repositories" in first.error
        assert (second.error, second.tags) == ("", 1)


async def test_a_rule_for_a_registry_that_the_proxy_does_not_know_is_told(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "from": "harbor"}]
    async with bj:

        async def is_told() -> bool:
            (rule,) = (await bj.status()).rules
            return "bad value for sync.0.from: 'harbor' is no upstream of this site's proxy" in rule.error

        await until(is_told, "the status says so")


async def test_this_sites_own_name_keeps_a_copy_and_the_registry_still_tells_what_the_tag_means(
    bj: SyncSite, sh: SyncSite
) -> None:
    bj.rules = [{**TEAM, "to": ["bj"]}]
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj:
        await until_quiet([bj])
        assert await bj.journal() == {"local/team/app:1": str(digest)}
        assert len(bj.blobs) == 2
        moved = bj.registry.add_image("team/app", "1", b"moved")
        await bj.notify("team/app", "1")
        await until_told(bj, "team/app", "1", moved)


async def test_labels_of_the_image_decide(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "tags": {"labels": {"sync": "y*"}}}]
    bj.registry.add_image("team/app", "plain", LAYER)
    labelled = add_labelled(bj, "labelled", {"sync": "yes"}, "2026-01-01T00:00:00Z")
    async with bj, sh:
        await until_told(sh, "team/app", "labelled", labelled)
        await until_quiet([bj, sh])
        assert await sh.told("team/app", "plain") is None


async def test_the_newest_are_those_whose_images_were_made_last(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "tags": {"newest": 2}}]
    for tag, year in (("a", 2026), ("b", 2024), ("c", 2025)):
        add_labelled(bj, tag, {}, f"{year}-01-01T00:00:00Z")
    async with bj, sh:
        await until_quiet([bj, sh])
        assert sorted(await sh.journal()) == ["local/team/app:a", "local/team/app:c"]


def add_labelled(site: SyncSite, tag: str, labels: dict[str, str], created: str) -> Digest:
    config = json.dumps({"os": "linux", "created": created, "config": {"Labels": labels}}).encode()
    descriptor = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": str(site.registry.add_blob(config)),
        "size": len(config),
    }
    manifest = {"schemaVersion": 2, "config": descriptor, "layers": []}
    return site.registry.add_manifest("team/app", tag, json.dumps(manifest).encode())


async def test_a_stopped_proxy_is_waited_for(bj: SyncSite, sh: SyncSite) -> None:
    async with bj, sh:
        await until_quiet([bj, sh])
        await sh.stop_proxy()
        digest = bj.registry.add_image("team/app", "1", LAYER)
        await bj.notify("team/app", "1")

        async def has_failed() -> bool:
            return any("the site cannot answer" in task.error for task in (await sh.status()).queue)

        await until(has_failed, "sh says what is wrong")
        await sh.start_proxy()
        await until_told(sh, "team/app", "1", digest)


async def test_a_schedule_looks_at_the_registry_by_itself(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "schedule": "* * * * * *"}]  # every second
    async with bj, sh:
        await until_quiet([bj, sh])
        digest = bj.registry.add_image("team/app", "1", LAYER)
        await until_told(sh, "team/app", "1", digest)


async def test_a_notification_that_comes_before_its_tag_is_not_lost(bj: SyncSite, sh: SyncSite) -> None:
    """docker-registry sends it while it stores the manifest, and sets the tag afterwards."""
    async with bj, sh:
        await until_quiet([bj, sh])
        await bj.notify("team/app", "1")
        await until(lambda: bj.registry.requests["HEAD /v2/team/app/manifests/1"] > 0, "the registry was asked")
        await until_quiet([bj])
        digest = bj.registry.add_image("team/app", "1", b"layer")
        await until_told(sh, "team/app", "1", digest)


async def test_a_webhook_with_a_token_of_its_own_opens_nothing_else(bj: SyncSite, sh: SyncSite, tmp_path: Path) -> None:
    (tmp_path / "webhook").write_text("hook-secret")
    (tmp_path / "site").write_text("site-secret")
    bj.seeder_settings = {"webhook_token_file": tmp_path / "webhook", "site_token_file": tmp_path / "site"}
    bj.token = "site-secret"
    body = {"events": []}
    async with bj:

        async def is_ready() -> bool:
            return bool((await bj.status()).rules[0].scanned_at)

        await until(is_ready, "bj is ready")
        hook = {"Authorization": "Bearer hook-secret"}
        assert await bj.statuses_of("POST", "syncs/webhook", [{}, {"Authorization": "Bearer x"}, hook], body) == [
            401,
            401,
            202,
        ]
        assert await bj.statuses_of("POST", "syncs/run", [hook, {"Authorization": "Bearer site-secret"}], body) == [
            401,
            202,
        ]


async def test_a_journal_that_names_private_images_is_followed_with_its_sites_token_for_siblings(
    bj: SyncSite, sh: SyncSite, tmp_path: Path
) -> None:
    for name in ("site", "siblings", "wrong"):
        (tmp_path / name).write_text(f"{name}-secret")
    bj.seeder_settings = {"site_token_file": tmp_path / "site", "siblings_token_file": tmp_path / "siblings"}
    bj.token = "site-secret"
    sh.join_with(bj, token_file=tmp_path / "wrong")
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:

        async def is_told() -> bool:
            return "give sites.bj.token_file" in (await sh.status()).follows[0].error

        await until(is_told, "the status says what is missing")
        await sh.stop_seeder()
        sh.join_with(bj, token_file=tmp_path / "siblings")
        await sh.start_seeder()
        await until_told(sh, "team/app", "1", digest)


async def test_another_sites_journal_is_followed_at_its_next_seeder_when_the_first_is_dead(
    bj: SyncSite, sh: SyncSite
) -> None:
    sh.join_with(bj, seeder="http://127.0.0.1:1", more_seeders=[bj.seeder_url])
    digest = bj.registry.add_image("team/app", "1", LAYER)
    async with bj, sh:
        await until_told(sh, "team/app", "1", digest)


async def test_a_killed_transfer_goes_on_and_the_tag_comes_last(bj: SyncSite, sh: SyncSite) -> None:
    digest = bj.registry.add_image("team/app", "1", LAYER)
    bj.registry.gate = asyncio.Event()
    async with bj, sh:

        async def is_under_way() -> bool:
            return bj.registry.bytes_sent > 0

        await until(is_under_way, "bytes flow")
        await bj.stop_seeder()
        assert await bj.told("team/app", "1") == digest  # the registry says so; the journal does not
        await bj.start_seeder()
        assert await bj.journal() == {}
        bj.registry.gate.set()
        await until_told(sh, "team/app", "1", digest)
        assert set(bj.registry.blob_gets.values()) == {1}


def referrer(site: SyncSite, subject: Digest, kind: str, content: bytes) -> dict[str, object]:
    """An artifact about a manifest, pushed by its digest as oras and cosign do where a registry has the API."""
    config = site.registry.add_blob(b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(config), "size": 2},
        "layers": [{"mediaType": kind, "digest": str(site.registry.add_blob(content)), "size": len(content)}],
        "subject": {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 1},
    }
    body = json.dumps(manifest).encode()
    digest = site.registry.add_manifest("team/app", None, body)
    return {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(body), "artifactType": kind}


async def referrers_at(site: SyncSite, subject: Digest) -> list[str]:
    return [each["digest"] for each in (await site.referrers("team/app", subject))["manifests"]]


async def test_referrers_that_a_registry_tells_by_its_api_only_cross_with_their_subject(
    bj: SyncSite, sh: SyncSite
) -> None:
    subject = bj.registry.add_image("team/app", "v1", LAYER)
    signature, sbom = (referrer(bj, subject, f"a/{kind}", os.urandom(1000)) for kind in ("signature", "sbom"))
    foreign = Digest.of(b"covered by no rule")
    bj.registry.referrers = {subject: [signature], foreign: [referrer(bj, foreign, "a/sbom", b"of no tag")]}
    sh.registry.referrers = {}  # it has the API, and knows nothing of this image
    async with bj, sh:
        await until_told(sh, "team/app", "v1", subject)
        await until_quiet([bj, sh])
        assert await referrers_at(sh, subject) == [signature["digest"]]

        bj.registry.referrers[subject].append(sbom)  # two pages now
        await bj.notify("team/app", "v1")

        async def has_both() -> bool:
            return len(await referrers_at(sh, subject)) == 2

        await until(has_both, "what was attached later crosses as well")
        await until_quiet([bj, sh])
        assert await referrers_at(sh, foreign) == []
        for stop in (bj.stop_seeder, bj.stop_proxy, bj.stop_registry, sh.stop_registry):
            await stop()
        for each in (signature, sbom):
            body = await sh.manifest("team/app", str(each["digest"]))
            assert all(Digest.parse(layer["digest"]).hex in sh.blobs for layer in json.loads(body)["layers"])
        assert set(await referrers_at(sh, subject)) == {signature["digest"], sbom["digest"]}


async def test_referrers_stay_behind_where_the_rule_says_so(bj: SyncSite, sh: SyncSite) -> None:
    bj.rules = [{**TEAM, "referrers": False}]
    subject = bj.registry.add_image("team/app", "v1", LAYER)
    bj.registry.referrers = {subject: [referrer(bj, subject, "a/sbom", b"sbom")]}
    async with bj, sh:
        await until_told(sh, "team/app", "v1", subject)
        await until_quiet([bj, sh])
        assert list(await sh.journal()) == ["local/team/app:v1"]
