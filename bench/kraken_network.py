"""Kraken on the links that imagedist has in ``swarm_network``, and the same bursts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.account import descendants
from bench.burst import Burst, burst_of
from bench.network import Link, Network, deployment
from bench.network.deployment import Registry
from bench.network.kraken import Kraken, kraken
from bench.peaks import anonymous_bytes
from bench.pulling import Pulled, pull
from bench.swarm_network import BLOBS, SITE_TIMES, STALL_SECONDS, WARM_UP_BYTES, go_first, offer

_ASKS = 5
"""For a blob. To what takes an agent longer than 60 s its nginx answers 504 (``proxy_read_timeout``, as nginx has it),
while the agent goes on. Who pulls an image then asks again."""


class KrakenNetwork:
    """Everything runs; ``burst`` as often as wanted, with as many of the nodes as wanted."""

    def __init__(self, registry: Registry, uplink: Link, running: Kraken, image_bytes: int) -> None:
        self._registry = registry
        self._uplink = uplink
        self._running = running
        self._image_bytes = image_bytes

    def warm_up(self) -> None:
        """Every agent has once done all it will do. Raises ImagedistError: one failed."""
        self._ask(self._offer(WARM_UP_BYTES), len(self._running.agents))

    def burst(self, count: int, *, is_warm: bool = False) -> Burst:
        """The first ``count`` nodes ask for a new image at once.

        Args:
            is_warm: the origin has the image before.

        Raises:
            ImagedistError: one did not get everything.
        """
        agents = [agent.process for agent in self._running.agents[:count]]
        paths = self._offer(self._image_bytes)
        if is_warm:
            self._running.bring(paths)
        ask = partial(self._ask, paths, count)
        burst = burst_of(ask, self._running.host, self._uplink, {*self._running.site, *agents})
        everybody = [process for agent in agents for process in (agent, *descendants(agent))]
        return replace(burst, agent_bytes=sum(map(anonymous_bytes, everybody)) // count)

    def _offer(self, size_bytes: int) -> list[str]:
        return offer(self._registry, [size_bytes // BLOBS] * BLOBS)[1]

    def _ask(self, paths: list[str], count: int) -> list[Pulled]:
        nodes = [agent.node for agent in self._running.agents[:count]]
        return pull(nodes, [self._running.mirror + path for path in paths], STALL_SECONDS, _ASKS)


@contextmanager
def kraken_network(
    directory: Path, nodes: int, node_bits_per_second: int, image_bytes: int, piece: str
) -> Iterator[KrakenNetwork]:
    """A registry, Kraken's origin, tracker, build-index and Redis on one host, and its agents on nodes of their own.

    Args:
        piece: length, as Kraken writes sizes.

    Raises:
        ImagedistError: something did not start.
    """
    wide = SITE_TIMES * node_bits_per_second
    with Network() as network, ExitStack() as stack:
        bench, internet = network.site("bench"), network.site("internet")
        uplink = network.link(bench, internet, wide)
        registry = stack.enter_context(deployment.registry(internet.node("registry"), directory / "upstream"))
        host = bench.node("site", wide)
        there = [bench.node(f"n{number}", node_bits_per_second) for number in range(nodes)]
        running = stack.enter_context(kraken(host, there, directory / "kraken", registry, piece))
        for process in running.site:
            go_first(process)
        yield KrakenNetwork(registry, uplink, running, image_bytes)
        for agent in running.agents:  # all at once: nothing of theirs is wanted any more
            os.kill(agent.process, signal.SIGKILL)
