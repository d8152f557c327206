"""Processes with a share of the CPUs, as their systemd units give it (``CPUWeight``): for who measures what one feels
of another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.account import CPU_V1, descendants, fresh_name, own_cgroup

AGENT_WEIGHT = 50
"""``CPUWeight`` of deploy/systemd/imagedist-agent.service; a test compares them."""
SERVICE_WEIGHT = 100
"""Of a unit that says nothing (systemd.resource-control(5))."""
_V1_SHARES_PER_WEIGHT = 1024 / 100


@contextmanager
def weighted(process: int, weight: int) -> Iterator[bool]:
    """The process and its descendants, in a cgroup of their own until the block ends. False: none can be made here."""
    group = _made(weight)
    if group is None:
        yield False
        return
    try:
        for each in (process, *descendants(process)):
            _move(each, group)
        yield True
    finally:
        for line in (group / "cgroup.procs").read_text().split():
            _move(int(line), group.parent)
        group.rmdir()


def _made(weight: int) -> Path | None:
    for above, name, value in _places(weight):
        group = above / fresh_name()
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(value))
            return group
        except OSError:  # the controller is not there
            group.rmdir()
    return None


def _places(weight: int) -> Iterator[tuple[Path, str, int]]:
    """Where groups are made, the file of a group's weight, and what to write: cgroup v2, then v1."""
    if (own := own_cgroup()) is not None:
        yield own, "cpu.weight", weight
    yield CPU_V1, "cpu.shares", int(weight * _V1_SHARES_PER_WEIGHT)


def _move(process: int, group: Path) -> None:
    with contextlib.suppress(OSError):  # it has ended
        (group / "cgroup.procs").write_text(str(process))
