"""Nodes join and leave all the time, pulling fresh blobs: whoever stays is afterwards as small as before.

Seconds here, ten minutes in ``make prove``.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.counts import count
from tests.support.swarm_site import SwarmNode, SwarmSite, until

pytestmark = [
    pytest.mark.e2e("docker-registry"),
    pytest.mark.network,
    pytest.mark.prove,
    pytest.mark.timeout(count(240, 1200)),
]

CHURN_SECONDS = count(8, 600)
NODES = 6
_STAY = 2
"""Nodes that never leave, and pull everything."""
BLOB_BYTES = 3_000_000
NODE_LINK = 100_000_000
SEED = 20_261_127
_QUOTA_BLOBS = 3
"""Of a node's cache: older blobs are evicted, and so their torrents go."""

_GROWTH_BYTES = 24 << 20
"""Of the anonymous memory of each process that stays: what allocators keep of a busy time."""
_GROWTH_FILES = 24
"""Idle connections to the site and to peers come and go."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of one process that stays."""

    anonymous_bytes: int
    files: int

    @classmethod
    def of(cls, process: int) -> Size:
        status = Path(f"/proc/{process}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return cls(int(line.split()[1]) << 10, len(os.listdir(f"/proc/{process}/fd")))


@pytest.fixture
def site() -> Iterator[SwarmSite]:
    directory = Path(tempfile.mkdtemp(prefix="churn-", dir="/dev/shm"))
    try:
        with ExitStack() as stack:
            yield SwarmSite(stack, directory, NODES, NODE_LINK, BLOB_BYTES, quota_blobs=_QUOTA_BLOBS)
    finally:
        shutil.rmtree(directory)


def test_nodes_come_and_go_and_nothing_is_left_of_them(site: SwarmSite) -> None:
    staying, passing = site.nodes[:_STAY], site.nodes[_STAY:]
    processes = {
        "proxy": site.site.proxy_process,
        **{f"seeder{number}": seeder.process for number, seeder in enumerate(site.site.seeders)},
        **{each.node.name: each.program.process for each in staying},
    }
    for _ in range(_QUOTA_BLOBS + 1):  # caches are full and every way was gone before anything is measured
        pull_right(site, site.nodes)
    before = {name: Size.of(process) for name, process in processes.items()}
    rounds = churn(site, staying, passing)
    site.heal()
    pull_right(site, site.nodes)

    for each in passing:
        each.program.kill()
    until(
        lambda: site.peers() == sum(len(each.transfers()) for each in staying),
        "the tracker knows those that are left and nobody else",
    )
    for each in staying:
        assert len(each.transfers()) <= _QUOTA_BLOBS, "evicted blobs have no torrents"
    until(
        lambda: not any(one.peers for each in staying for one in each.transfers()),
        "nobody has a connection to who is gone",
    )
    for name, process in processes.items():
        after = Size.of(process)
        print(f"{name} after {rounds} rounds: {before[name]} -> {after}")
        grown = after.anonymous_bytes - before[name].anonymous_bytes
        assert grown < _GROWTH_BYTES, f"{name} grew by {grown >> 20} MiB in {rounds} rounds"
        assert after.files <= before[name].files + _GROWTH_FILES, f"{name} leaks files in {rounds} rounds"


def churn(site: SwarmSite, staying: list[SwarmNode], passing: list[SwarmNode]) -> int:
    """A fresh blob in every round, pulled by whoever is there, while two nodes come or go. The number of rounds."""
    dice = random.Random(SEED)
    deadline = time.monotonic() + CHURN_SECONDS
    rounds = 0
    while time.monotonic() < deadline:
        rounds += 1
        digest = site.push()
        pull = site.pull([*staying, *(each for each in passing if each.program.process)], digest)
        for each in dice.sample(passing, 2):
            change(each, dice.random())
        done = pull.wait_done()
        for each in staying:
            assert done[each.node].digest == digest, f"round {rounds}, {each.node.name}: {done[each.node]}"
    return rounds


def change(node: SwarmNode, chance: float) -> None:
    """It comes; or it goes, more often killed than not."""
    if not node.program.process:
        node.program.start()
    elif chance < 0.7:
        node.program.kill()
    else:
        node.program.stop()


def pull_right(site: SwarmSite, nodes: list[SwarmNode]) -> None:
    digest = site.push()
    for node, pulled in site.pull(nodes, digest).wait_done().items():
        assert pulled.digest == digest, f"{node.name}: {pulled}"
