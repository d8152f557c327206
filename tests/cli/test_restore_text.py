"""What `imagedist restore` shows of what is missing, how far it is, and what was left alone."""

from __future__ import annotations

import pytest

from imagedist.cli.restore_text import plan_text, progress, summary
from imagedist.oci.digest import Digest
from imagedist.site_sync import RestoreLine, RestorePlan, RestoreStatus

DIGEST = Digest.of(b"image")


def plan(*actions: str) -> RestorePlan:
    lines = tuple(
        RestoreLine(name="local/a", tag=f"{number}", digest=DIGEST, action=action, blobs=2, bytes=1_500_000)
        for number, action in enumerate(actions)
    )
    return RestorePlan(source="vault", lines=lines)


def test_what_is_missing_is_a_line_each_with_a_sum() -> None:
    text = plan_text(plan("set", "here", "move")).splitlines()
    assert text[1].split() == ["local/a:0", "set", DIGEST.short, "2", "1.5", "MB"]
    assert text[-1] == "from vault: 2 of 3 tags, 4 blobs, 3.0 MB"


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (["here"], "1 of 1 tag of vault are here"),
        (["here", "set"], "1 of 2 tags of vault are here, 1 are not"),
        (
            ["newer", "deleted", "here"],
            "1 of 3 tags of vault are here, 1 mean something newer here, 1 were deleted here and stay so",
        ),
    ],
)
def test_the_summary_counts_what_was_left_alone(actions: list[str], expected: str) -> None:
    assert summary(plan(*actions)) == expected


def test_progress_says_what_fails() -> None:
    status = RestoreStatus(source="vault", waiting=3, stuck=1, bytes_total=2_000_000, bytes_done=1_000_000)
    assert progress(status) == "3 tags to do (1.0 MB of 2.0 MB under way), 1 of them fail"
