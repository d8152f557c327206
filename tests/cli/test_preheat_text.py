"""A preheat's summary is what cron mails: short, whatever the site's size, and it names who is not done, and why."""

from __future__ import annotations

from imagedist.cli.preheat_text import summary
from imagedist.oci.digest import Digest
from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import NodePreheat, PreheatStatus, Wanted


def status(nodes: tuple[NodePreheat, ...], **counts: int) -> PreheatStatus:
    reference = "docker.io/library/python:3.12"
    return PreheatStatus(
        name="base",
        run=4,
        state="incomplete",
        started_at=1_764_208_800.0,
        seconds=48,
        is_over=True,
        is_confirmed=False,
        rule=PreheatRule.model_validate({"name": "base", "images": [reference]}),
        images=(Wanted(reference=reference, digest=Digest.of(b"python")),),
        problems=("docker.io/library/gone:1: no such tag",),
        counts=counts,
        nodes=nodes,
    )


def test_everybody_who_is_not_done_is_named_with_the_reason_and_nobody_else() -> None:
    nodes = (
        NodePreheat(id="n1", outcome="done"),
        NodePreheat(id="n7", outcome="failed", message="no room for docker.io/library/python:3.12"),
        NodePreheat(id="n4", outcome="gone", message="not heard of for 3120 s"),
    )
    text = summary(status(nodes, done=1, failed=1, gone=1))
    assert "preheat base, run 4: incomplete after 48 s" in text
    assert "3: 1 done, 1 failed, 1 gone" in text
    assert "n7: failed, no room for docker.io/library/python:3.12" in text
    assert "n4: gone, not heard of for 3120 s" in text
    assert "n1" not in text
    assert "docker.io/library/gone:1: no such tag" in text


def test_of_two_thousand_nodes_that_failed_fifty_are_named_and_the_others_counted() -> None:
    nodes = tuple(NodePreheat(id=f"n{number}", outcome="failed", message="no room") for number in range(2000))
    lines = summary(status(nodes, failed=2000)).splitlines()
    assert len(lines) < 65
    assert "and 1950 more" in lines[-1]
