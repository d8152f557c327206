"""What one image cost that many nodes asked for at once, whoever brings it to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from bench.account import ProcessAccount, machine_cpu_seconds
from bench.network import Link, Node
from bench.pulling import Pulled


@dataclass(frozen=True, slots=True)
class Burst:
    """What one image cost.

    Attributes:
        pulled: of each node.
        site_bytes, upstream_bytes: left the site's host; came from the upstream. As links count, headers in it.
        cpu_seconds: of the site's processes and the agents of those nodes; the others' agents only wait.
        busy_seconds, idle_seconds: of all CPUs of this machine.
        received_bytes: of all nodes, by source, where agents tell it.
        agent_bytes: anonymous memory of each agent, afterwards; the mean.
    """

    pulled: Sequence[Pulled]
    site_bytes: int
    upstream_bytes: int
    cpu_seconds: float
    busy_seconds: float
    idle_seconds: float
    received_bytes: Counter[str] = field(default_factory=Counter)
    agent_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Until the last node had its last byte."""
        return max(one.seconds for one in self.pulled)

    @property
    def idle_share(self) -> float:
        return self.idle_seconds / (self.busy_seconds + self.idle_seconds)


def burst_of(ask: Callable[[], Sequence[Pulled]], host: Node, uplink: Link, processes: Collection[int]) -> Burst:
    """Counts while nodes ask.

    Args:
        host: of the site.
        uplink: there leads away from the site.
        processes: those whose CPU time counts, with their descendants.

    Raises:
        ImagedistError: a node did not get everything.
    """
    account = ProcessAccount()
    account.roots = set(processes)
    site_bytes, upstream_bytes = host.up.bytes, uplink.back.bytes
    cpu_seconds, (busy, idle) = account.cpu_seconds(), machine_cpu_seconds()
    pulled = ask()
    busy_after, idle_after = machine_cpu_seconds()
    return Burst(
        pulled,
        host.up.bytes - site_bytes,
        uplink.back.bytes - upstream_bytes,
        account.cpu_seconds() - cpu_seconds,
        busy_after - busy,
        idle_after - idle,
    )
