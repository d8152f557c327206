"""The orders of one node: every rule that is about it, and what it may take while it works."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from imagedist.preheat.shapes import Order, Orders
from seeder.preheat.run import Run


class NodeRule(NamedTuple):
    """``rate``: bytes per second while it works for this run; None: no cap."""

    run: Run
    may_work: bool
    rate: int | None


def orders_of(rules: Sequence[NodeRule]) -> Orders:
    """Their version is a function of what they say."""
    orders = tuple(_order(each.run, each.may_work) for each in rules)
    rates = [each.rate for each in rules if each.may_work and each.rate is not None]
    rate = min(rates) if rates else None
    said = [str(rate)]
    for each in rules:
        said += [each.run.rule.name, each.run.id, str(each.may_work), str(each.run.rule.pin)]
    version = hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
    return Orders(version=version, orders=orders, rate=rate)


def _order(run: Run, may_work: bool) -> Order:
    rule = run.rule
    return Order(
        rule=rule.name,
        run=run.id,
        images=run.images,
        into=rule.into,
        is_pinned=rule.pin,
        may_work=may_work,
        attempts=rule.limits.attempts,
        headroom_bytes=int(rule.limits.headroom),
    )
