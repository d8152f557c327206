"""Who may work when, and how far a run is: the rules by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from imagedist.oci.digest import Digest
from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import NodeOutcome, Wanted
from seeder.preheat import plan
from seeder.preheat.plan import Heard, Target
from seeder.preheat.run import Run

WANTED = (Wanted(reference="r.example/app:1", digest=Digest.of(b"app")),)


def run(
    *, admitted: str = "", confirmed: str = "", state: str = "active", problems: tuple[str, ...] = (), **tables: Any
) -> Run:
    rule = PreheatRule.model_validate({"name": "x", "images": ["r.example/app:1"], **tables})
    return Run.model_validate(
        {
            "rule": rule,
            "started_at": 1000.0,
            "images": WANTED,
            "admitted": frozenset(admitted),
            "confirmed": frozenset(confirmed),
            "state": state,
            "problems": problems,
        }
    )


def heard(state: Any, run_id: str = "1.1000", images: int = 1) -> Heard:
    return Heard(run_id, images, state)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("a"), "working"),
        (Target("b"), "waiting"),
        (Target("a", heard=heard("present")), "done"),
        (Target("b", heard=heard("present")), "done"),  # it was there already
        (Target("a", heard=heard("failed")), "failed"),
        (Target("a", heard=heard("missing")), "working"),
        (Target("a", heard=heard("present", run_id="0.900")), "working"),  # of an earlier run
        (Target("a", heard=heard("present", images=0)), "working"),  # of fewer images
        (Target("a", is_gone=True, heard=heard("present")), "gone"),  # it confirms nothing now
        (Target("a", is_paused=True, is_gone=True), "paused"),
    ],
)
def test_only_what_a_node_says_now_about_this_run_counts(target: Target, expected: str) -> None:
    assert plan.outcome(run(admitted="a"), target) == expected


def test_what_went_away_is_repaired_or_reported_as_the_rule_says() -> None:
    target = Target("a", heard=heard("missing"))
    assert plan.outcome(run(admitted="a", confirmed="a"), target) == "working"
    reported = run(admitted="a", confirmed="a", missing="report")
    assert plan.outcome(reported, target) == "missing"
    standing = plan.standing(reported, {"a": "missing"}, 1001, True)
    assert (standing.state, standing.is_over, standing.is_confirmed) == ("incomplete", True, False)
    assert not plan.may_work(reported, standing, "missing", "a")


def outcomes(**each: NodeOutcome) -> dict[str, NodeOutcome]:
    return each


@pytest.mark.parametrize(
    ("its", "found", "now", "is_open", "state", "is_over", "is_confirmed"),
    [
        ({}, outcomes(a="done", b="working"), 1001, True, "running", False, False),
        ({}, outcomes(a="done", b="done"), 1001, True, "done", True, True),
        ({}, outcomes(a="done", b="paused"), 1001, True, "done", True, True),
        ({}, outcomes(a="done", b="gone"), 1001, True, "incomplete", True, False),
        ({}, outcomes(a="done", b="failed"), 1001, True, "incomplete", True, False),
        ({}, outcomes(), 1001, True, "incomplete", True, False),
        ({}, outcomes(a="paused"), 1001, True, "incomplete", True, False),
        ({"problems": ("no such tag",)}, outcomes(a="done"), 1001, True, "incomplete", True, False),
        ({"waves": {"failures": 1}}, outcomes(a="failed", b="waiting"), 1001, True, "running", False, False),
        ({"waves": {"failures": 0}}, outcomes(a="failed", b="waiting"), 1001, True, "stopped", True, False),
        ({"waves": {"failures": 0}}, outcomes(a="failed", b="working"), 1001, True, "stopped", False, False),
        ({"limits": {"deadline": "5s"}}, outcomes(a="working"), 1004, True, "running", False, False),
        ({"limits": {"deadline": "5s"}}, outcomes(a="working"), 1005, True, "expired", True, False),
        ({"limits": {"deadline": "5s"}}, outcomes(a="done"), 1005, True, "done", True, True),
        ({}, outcomes(a="waiting"), 1001, False, "closed", False, False),
        ({"state": "paused"}, outcomes(a="waiting"), 1001, True, "paused", False, False),
        ({"state": "cancelled"}, outcomes(a="working"), 1001, True, "cancelled", True, False),
    ],
)
def test_how_a_run_stands(
    its: dict[str, Any],
    found: dict[str, NodeOutcome],
    now: float,
    is_open: bool,
    state: str,
    is_over: bool,
    is_confirmed: bool,
) -> None:
    standing = plan.standing(run(**its), found, now, is_open)
    assert (standing.state, standing.is_over, standing.is_confirmed) == (state, is_over, is_confirmed)
    if state not in ("running", "stopped", "done", "incomplete"):
        assert not plan.may_work(run(admitted="a", **its), standing, "working", "a")


def test_a_wave_begins_when_the_last_one_is_through() -> None:
    of_two = run(waves={"size": 2})
    assert plan.admissible(of_two, outcomes(d="waiting", a="waiting", c="waiting")) == ["a", "c"]
    assert plan.admissible(of_two, outcomes(a="working", b="done", c="waiting")) == ()
    assert plan.admissible(of_two, outcomes(a="gone", b="failed", c="waiting")) == ["c"]  # nobody is held up
    assert plan.admissible(run(), outcomes(a="working", c="waiting", b="waiting")) == ["b", "c"]


def test_nodes_at_work_share_the_sites_cap_and_never_exceed_it() -> None:
    capped = run(limits={"site": 1000, "node": 300})
    assert plan.node_rate(capped, 1) == 300
    assert plan.node_rate(capped, 4) == 250
    assert plan.node_rate(run(), 4) is None
    assert plan.node_rate(run(limits={"node": 5}), 4) == 5
    for working in range(1, 3000):
        rounded = plan.rounded_up(working)
        assert working <= rounded <= working * 1.25
        rate = plan.node_rate(run(limits={"site": 1_000_000}), working)
        assert rate is not None
        assert rate * working <= 1_000_000
    assert len({plan.rounded_up(working) for working in range(1, 2001)}) < 50  # few changes on the way
