"""What `imagedist sync` shows of plans, of how far sync is, and of what an operator should mend."""

from __future__ import annotations

from imagedist.cli.sync_text import plan_text, problems, status_text, summary
from imagedist.oci.digest import Digest
from imagedist.site_sync import (
    ConflictStatus,
    DestinationStatus,
    FollowStatus,
    PlanLine,
    RuleStatus,
    SyncPlan,
    SyncStatus,
    TaskStatus,
)

DIGEST = Digest.of(b"image")


def test_a_plan_is_a_line_for_each_tag_and_sums_for_each_site() -> None:
    lines = (
        PlanLine(site="sh", name="local/a", tag="1", action="set", digest=DIGEST, blobs=2, bytes=1_500_000),
        PlanLine(site="sh", name="local/a", tag="2", action="move", digest=DIGEST, blobs=1, bytes=500_000),
        PlanLine(site="gz", name="local/a", tag="0", action="delete"),
    )
    text = plan_text(SyncPlan(lines=lines)).splitlines()
    assert text[1].split() == ["sh", "local/a:1", "set", DIGEST.short, "2", "1.5", "MB"]
    assert text[-2:] == ["to gz: 1 tag, 0 blobs, 0 bytes", "to sh: 2 tags, 3 blobs, 2.0 MB"]


def test_an_empty_plan_says_so() -> None:
    assert plan_text(SyncPlan()) == "nothing to move"
    assert plan_text(SyncPlan(errors=("away",))) == "nothing else to move"


def status(**fields: object) -> SyncStatus:
    base = {"site": "bj", "journal": "j", "sequence": 7, "is_scanning": False, "waiting": 0, "failed": 0}
    return SyncStatus.model_validate({**base, **fields})


def task(**fields: object) -> TaskStatus:
    base = {"name": "local/a", "tag": "1", "digest": DIGEST, "source": "", "state": "running"}
    return TaskStatus.model_validate({**base, **fields})


def test_the_summary_says_what_is_under_way_and_who_is_behind() -> None:
    found = status(
        is_scanning=True,
        waiting=2,
        failed=1,
        queue=(task(bytes_done=1_000_000, bytes_total=4_000_000),),
        destinations=(DestinationStatus(site="sh"), DestinationStatus(site="gz", is_behind=False)),
    )
    assert summary(found) == (
        "site bj: looking through the registry, 2 tags to do (1.0 MB of 4.0 MB under way) and 1 failed; "
        "not there yet: sh"
    )


def test_the_status_shows_rules_sites_queue_and_conflicts() -> None:
    found = status(
        bytes_per_second=10_000_000,
        rules=(RuleStatus(number=0, repositories=("team/*",), upstream="local", to=("sh",), tags=3),),
        follows=(FollowStatus(site="sh", sequence=9),),
        destinations=(DestinationStatus(site="sh", sequence=7, is_behind=False),),
        queue=(task(state="failed", error="away", attempts=20),),
        failed=1,
        conflicts=(
            ConflictStatus(
                at=0.0, name="local/a", tag="1", kept=str(DIGEST), kept_of="bj", lost="deleted", lost_of="sh"
            ),
        ),
    )
    text = status_text(found)
    for part in ("capped at 10.0 MB/s", "local/team/*", "has all", "away", f"bj: {DIGEST.short}", "sh: deleted"):
        assert part in text


def test_what_fails_is_named_with_its_place() -> None:
    found = status(
        rules=(RuleStatus(number=1, repositories=("a",), upstream="local", to=("sh",), error="no catalog"),),
        follows=(FollowStatus(site="sh", sequence=0, error="away"),),
        destinations=(DestinationStatus(site="gz", error="down"), DestinationStatus(site="hz", failed=2)),
        queue=(task(state="failed", error="nobody has it"), task(state="waiting", error="once")),
    )
    assert problems(found) == [
        "sync.1: no catalog",
        "site sh is not followed: away",
        "site gz is not fed: down",
        "site hz failed to set 2 tags: see `imagedist sync status` there",
        "local/a:1: nobody has it",
    ]


def test_backups_are_shown_with_what_goes_there_and_why_it_does_not() -> None:
    found = status(
        queue=(task(to="vault", source="bj", state="failed", error="no room"),),
        destinations=(DestinationStatus(site="vault", is_backup=True, failed=1, is_behind=False, error="it is away"),),
    )
    text = status_text(found)
    assert "backup vault" in text
    assert "local/a:1 to vault" in text
    assert problems(found) == ["backup vault is not fed: it is away", "local/a:1 to vault: no room"]
