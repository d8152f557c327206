"""Which node may work now, and how far a run is. Pure: no clock, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imagedist.preheat.shapes import NodeOutcome, RunState, State
from seeder.preheat.run import Run


class Heard(NamedTuple):
    """What a node said last about a rule, in short.

    Attributes:
        images: of how many.
    """

    run: str
    images: int
    state: State
    message: str = ""
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A node that a rule is about. ``heard``: None: it has not said anything about it."""

    id: str
    is_gone: bool = False
    is_paused: bool = False
    heard: Heard | None = None


def outcome(run: Run, target: Target) -> NodeOutcome:
    """How a node stands in the run. Only what it says now counts: a node that is gone confirms nothing."""
    if target.is_paused:
        return "paused"
    if target.is_gone:
        return "gone"
    heard = target.heard
    if heard is not None and heard.run == run.id and heard.images == len(run.images):
        if heard.state == "present":
            return "done"
        if heard.state == "failed":
            return "failed"
        if run.rule.missing == "report" and target.id in run.confirmed:
            return "missing"
    return "working" if target.id in run.admitted else "waiting"


class Standing(NamedTuple):
    """How far a run is.

    Attributes:
        is_over: nothing more happens by itself, until nodes come or something goes missing.
        is_confirmed: every target node confirmed every image, and every image could be resolved.
        may_admit: whether nodes that wait may begin, if the wave has room.
    """

    state: RunState
    is_over: bool
    is_confirmed: bool
    may_admit: bool


def standing(run: Run, outcomes: Mapping[str, NodeOutcome], now: float, is_window_open: bool) -> Standing:
    """
    Args:
        outcomes: of all target nodes. now: seconds since the epoch.
    """
    counts = Counter(outcomes.values())
    unfinished = counts["working"] + counts["waiting"]
    targets = len(outcomes) - counts["paused"]
    is_confirmed = targets > 0 and counts["done"] == targets and bool(run.images) and not run.problems
    limit, deadline = run.rule.waves.failures, run.rule.limits.deadline
    if run.state == "cancelled":
        return Standing("cancelled", True, is_confirmed, False)
    if is_confirmed:
        return Standing("done", True, True, True)
    if not unfinished or not run.images:
        return Standing("incomplete", True, False, False)
    if run.state == "paused":
        return Standing("paused", False, False, False)
    if limit is not None and counts["failed"] > limit:
        return Standing("stopped", counts["working"] == 0, False, False)
    is_late = deadline is not None and now - run.started_at >= deadline.total_seconds()
    if is_late and run.finished_at is None:
        return Standing("expired", True, False, False)
    if not is_window_open:
        return Standing("closed", False, False, False)
    return Standing("running", False, False, True)


def admissible(run: Run, outcomes: Mapping[str, NodeOutcome]) -> Sequence[str]:
    """The next wave, by ID: none while a node of the last one still works."""
    waiting = sorted(node_id for node_id, each in outcomes.items() if each == "waiting")
    if run.rule.waves.size is None:
        return waiting
    if any(each == "working" for each in outcomes.values()):
        return ()
    return waiting[: run.rule.waves.size]


def may_work(run: Run, standing: Standing, node_outcome: NodeOutcome, node_id: str) -> bool:
    """Whether a node may fetch and unpack now."""
    if node_id not in run.admitted or node_outcome == "paused":
        return False
    if run.rule.missing == "report" and node_id in run.confirmed:
        return False
    return standing.state in ("running", "done", "incomplete", "stopped")


def node_rate(run: Run, working: int) -> int | None:
    """Bytes per second that one of the nodes at work may take; together they stay below the site's cap.

    The number of nodes is rounded up by a quarter at most, so that not every node that ends changes all the others'.
    """
    limits = run.rule.limits
    if limits.site is None:
        return limits.node
    share = max(1, limits.site // rounded_up(max(working, 1)))
    return share if limits.node is None else min(share, limits.node)


def rounded_up(count: int) -> int:
    """To the next step of a scale of quarters: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20 …"""
    step = 1
    while step * 8 < count:
        step *= 2
    return -(-count // step) * step
