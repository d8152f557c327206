"""What the site's preheats tell Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import get_args

from imagedist.metrics import PREHEAT_FAILURES, PREHEAT_RUN_BYTES, PREHEAT_RUNS, PREHEAT_SUCCESS, PREHEAT_TARGETS
from imagedist.preheat.shapes import NodeOutcome
from seeder.preheat.plan import Standing
from seeder.preheat.run import Run

Looked = tuple[Standing, Mapping[str, NodeOutcome]]


def tell(run: Run, now: Looked, before: Looked | None, received_bytes: int) -> None:
    """After a look at a run.

    Args:
        before: the last one; None: there was none.
    """
    name, (standing, outcomes) = run.rule.name, now
    counts = Counter(outcomes.values())
    for outcome in get_args(NodeOutcome):
        PREHEAT_TARGETS.labels(name, outcome).set(counts[outcome])
    PREHEAT_RUN_BYTES.labels(name).set(received_bytes)
    if standing.is_confirmed and run.finished_at is not None:
        PREHEAT_SUCCESS.labels(name).set(run.finished_at)
    had_failed = {node_id for node_id, each in before[1].items() if each == "failed"} if before is not None else set()
    failed = {node_id for node_id, each in outcomes.items() if each == "failed"}
    PREHEAT_FAILURES.labels(name).inc(len(failed - had_failed))


def tell_run(name: str, outcome: str) -> None:
    """A run began, or ended."""
    PREHEAT_RUNS.labels(name, outcome).inc()


def forget(name: str) -> None:
    """The rule is gone; counters stay, as they count for ever."""
    for outcome in get_args(NodeOutcome):
        with suppress(KeyError):
            PREHEAT_TARGETS.remove(name, outcome)
    for gauge in (PREHEAT_RUN_BYTES, PREHEAT_SUCCESS):
        with suppress(KeyError):
            gauge.remove(name)
