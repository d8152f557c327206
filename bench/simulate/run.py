"""``imagedist-bench simulate``: what is asked of the simulator. Its libraries are loaded when it runs, not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.result import Keep, Result, forget
from bench.simulate.known import Known
from bench.simulate.scenario import Scenario
from imagedist.errors import InputError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Args:
        scenarios: one for each number of nodes.
        runs: of each, with seeds that follow each other.
        known: runs that the model is held against.
        torrents: that a node seeds at rest; for the sizing table. None: no such table.
        within_seconds: in which 99 of 100 nodes are to have the image: how few seeders that takes. None: not asked.
    """

    scenarios: Sequence[Scenario]
    runs: int = 1
    known: Sequence[Known] = ()
    torrents: int | None = None
    within_seconds: float | None = None


def run(plan: Plan, say: Say, keep: Keep = forget) -> Result:
    """Deterministic but for what this machine took. Bursts, sizes and the comparison are parts where there are more.

    Raises:
        InputError: numpy is not installed.
    """
    try:
        from bench.simulate.telling import tell
    except ImportError as error:
        raise InputError(f"the simulator needs numpy: pip install 'imagedist[bench]' ({error})") from error
    return tell(plan, say, keep)
