"""One rule with its run under way: what is kept of it, and over restarts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from imagedist.preheat.rule import PreheatRule
from imagedist.preheat.shapes import Wanted


class Run(BaseModel):
    """
    Attributes:
        number: 1 for the rule's first run.
        state: what an operator said last.
        started_at: seconds since the epoch. finished_at: when it was over; None: it is not.
        images, problems: what the rule's images meant at its start, and what is wrong with some.
        admitted: nodes whose turn has come.
        confirmed: nodes that had all of it, verified, at some time in this run.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    rule: PreheatRule
    number: int = 1
    state: Literal["active", "paused", "cancelled"] = "active"
    started_at: float
    finished_at: float | None = None
    images: tuple[Wanted, ...] = ()
    problems: tuple[str, ...] = ()
    admitted: frozenset[str] = frozenset()
    confirmed: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Names the run for nodes, for ever: a rule that is removed and made again begins with another one."""
        return f"{self.number}.{self.started_at:.0f}"
